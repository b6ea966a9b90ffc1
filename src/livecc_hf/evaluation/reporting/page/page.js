// Shows verdicts one by one. The reader's own decisions are kept in the browser and compared with the judge's.
(() => {
  const element = (id) => document.getElementById(id);
  if (!element("verdict-data")) return;
  const sets = JSON.parse(element("verdict-data").textContent);
  let data = sets[0];
  let mine = {};
  const filters = {
    all: () => true,
    different: (row) => row.ab !== row.ba,
    invalid: (row) => row.invalid > 0,
    model: (row) => row.ab === "model" && row.ba === "model",
    opponent: (row) => row.ab === "opponent" && row.ba === "opponent",
    mine: (row) => mine[row.key],
  };
  let shown = data.rows;
  let at = 0;
  const store = () => `livecc-verdicts-${data.id}`;

  function open(number) {
    data = sets[number];
    mine = {};
    try { mine = JSON.parse(localStorage.getItem(store()) || "{}"); } catch (error) { /* pages opened from a file may have no storage */ }
    for (const name of ["model", "opponent"]) {
      element(`${name}-name`).textContent = data[name];
      element(`choose-${name}`).textContent = data[name];
    }
    choosePart(element("filter").value || "all");
  }

  function choosePart(name) {
    shown = data.rows.filter(filters[name]);
    at = 0;
    show();
  }

  const winner = (name) => ({ model: data.model, opponent: data.opponent, tie: "tie" })[name] || name;

  // Over the rows that the reader decided: the number of judge calls, and how many name the same winner.
  function agreement() {
    let calls = 0;
    let same = 0;
    for (const row of data.rows) {
      if (!mine[row.key]) continue;
      for (const order of ["ab", "ba"]) {
        calls += 1;
        same += row[order] === mine[row.key];
      }
    }
    return { rows: Object.keys(mine).length, calls, same };
  }

  function show() {
    const row = shown[at];
    element("position").textContent = shown.length ? `${at + 1} of ${shown.length}` : "none";
    const count = agreement();
    const share = count.calls ? ` (${(100 * count.same / count.calls).toFixed(1)} %)` : "";
    element("agreement").textContent =
      `You decided ${count.rows} rows; the judge agrees with you in ${count.same} of ${count.calls} calls${share}.`;
    element("verdict").hidden = !row;
    if (!row) return;
    element("row-key").textContent = row.key;
    element("model-text").textContent = row.model;
    element("opponent-text").textContent = row.opponent;
    element("reference-text").textContent = row.reference || "(not known)";
    element("said").textContent =
      `Judge: ${winner(row.ab)} when ${data.model} is shown first, ${winner(row.ba)} when it is shown second` +
      (row.invalid ? `; ${row.invalid} invalid` : "");
    element("replies").textContent = (row.replies || []).join("\n");
    const strip = element("strip");
    strip.replaceChildren(...(row.frames || []).map((source) => Object.assign(new Image(), { src: source })));
    for (const name of ["model", "opponent", "tie"]) {
      element(`choose-${name}`).classList.toggle("chosen", mine[row.key] === name);
    }
  }

  function choose(name) {
    const key = shown[at].key;
    if (mine[key] === name) delete mine[key];
    else mine[key] = name;
    try { localStorage.setItem(store(), JSON.stringify(mine)); } catch (error) { /* without storage, decisions last until the page is closed */ }
    show();
  }

  function move(by) {
    at = Math.min(Math.max(at + by, 0), Math.max(shown.length - 1, 0));
    show();
  }

  for (const name of ["model", "opponent", "tie"]) element(`choose-${name}`).onclick = () => choose(name);
  element("next").onclick = () => move(1);
  element("previous").onclick = () => move(-1);
  element("filter").onchange = (event) => choosePart(event.target.value);
  element("set").onchange = (event) => open(Number(event.target.value));
  element("set").replaceChildren(...sets.map((item, number) => Object.assign(document.createElement("option"), {
    value: number, textContent: `${item.model} against ${item.opponent}, by ${item.judge}`,
  })));
  element("save").onclick = () => {
    const lines = Object.entries(mine).map(([key, choice]) => JSON.stringify({ key, winner: choice }));
    const blob = new Blob([`${lines.join("\n")}\n`], { type: "application/jsonl" });
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: "overruled.jsonl" });
    link.click();
    URL.revokeObjectURL(link.href);
  };
  open(0);
})();
