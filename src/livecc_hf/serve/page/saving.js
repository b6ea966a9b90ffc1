// Saves the transcript as WebVTT, SubRip or plain text, in the formats of `livecc commentate`.

const TYPES = { vtt: "text/vtt", srt: "application/x-subrip", txt: "text/plain" };

/** Return the contents of a file with a record's segments; plain text also has its answers. */
export function written(form, record) {
  if (form === "txt") return plain(record);
  const isVtt = form === "vtt";
  let [lastMs, text] = [0, isVtt ? "WEBVTT\n\n" : ""];
  let n = 0;
  for (const segment of record.segments) {
    const words = oneLine(segment.text);
    if (!words) continue;
    const startMs = Math.max(Math.round(segment.startS * 1000), lastMs);
    const endMs = Math.max(Math.round(segment.endS * 1000), startMs + 1);
    lastMs = endMs;
    n += 1;
    const times = `${stamp(startMs, isVtt ? "." : ",")} --> ${stamp(endMs, isVtt ? "." : ",")}`;
    text += isVtt ? `${times}\n${escaped(words)}\n\n` : `${n}\n${times}\n${words.replaceAll("-->", "→")}\n\n`;
  }
  return text;
}

/** Make the browser download a record as NAME.FORM. */
export function save(form, record, name) {
  const url = URL.createObjectURL(new Blob([written(form, record)], { type: `${TYPES[form]};charset=utf-8` }));
  const link = Object.assign(document.createElement("a"), { href: url, download: `${stem(name)}.${form}` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

function plain({ segments, answers }) {
  const said = segments.map(({ startS, endS, text }) => [startS, `${tenths(startS)} - ${tenths(endS)}  ${oneLine(text)}`]);
  const asked = answers.map(({ timeS, question, text }) => [timeS, `${tenths(timeS)}  ${oneLine(question)}\n  ${oneLine(text)}`]);
  return [...said, ...asked].sort((a, b) => a[0] - b[0]).map(([, line]) => `${line}\n`).join("");
}

function stem(name) {
  return name.replace(/\.[^.]{1,5}$/, "").replace(/[\\/:*?"<>|]/g, "_") || "commentary";
}

function oneLine(text) {
  return text.replace(/[\s\x00-\x1f\x7f-\x9f]+/g, " ").trim();
}

function escaped(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

function stamp(ms, point) {
  const two = (n) => String(n).padStart(2, "0");
  const [h, m, s] = [Math.floor(ms / 3_600_000), Math.floor(ms / 60_000) % 60, Math.floor(ms / 1000) % 60];
  return `${two(h)}:${two(m)}:${two(s)}${point}${String(ms % 1000).padStart(3, "0")}`;
}

function tenths(seconds) {
  const all = Math.max(0, Math.round(seconds * 10));
  const two = (n) => String(n).padStart(2, "0");
  const [h, m, s] = [Math.floor(all / 36_000), Math.floor(all / 600) % 60, Math.floor(all / 10) % 60];
  return `${h ? `${h}:` : ""}${two(m)}:${two(s)}.${all % 10}`;
}
