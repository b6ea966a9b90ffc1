// Creates the parts of the page and connects them.

import { Captions } from "./captions.js";
import { Commentator } from "./commentator.js";
import { readConfig } from "./config.js";
import { Controls } from "./controls.js";
import { element, memory } from "./dom.js";
import { firstLanguage, LANGUAGES, speak, t } from "./i18n.js";
import { askForToken, Messages } from "./messages.js";
import { Player } from "./player.js";
import { save } from "./saving.js";
import { openCamera, openClip, openFile, openScreen, SourceError } from "./source.js";
import { Stats } from "./stats.js";
import { TranscriptView } from "./transcript.js";
import { Voice } from "./voice.js";

const CONFIG_WAIT_MS = 2000;
const QUIET_CODES = new Set(["session_too_long", "idle"]); // the page reconnects without a message
let config = null;

const player = new Player(element("video"));
const voice = new Voice(player.video);
const captions = new Captions(element("captions"));
const stats = new Stats();
const transcript = new TranscriptView(element("transcript"), {
  onSeek: (timeS) => player.seek(timeS),
  label: (time) => t("go_to", { time }),
});
const controls = new Controls(player, { voice, captions });
const commentator = new Commentator(player, {
  state: showState,
  segment: hear,
  answer: hearAnswer,
  notice: (code, reason) => hearNotice(code, reason),
  counted: showStats,
});
const messages = new Messages({ onRetry: () => commentator.retry() });
let lastState = ["idle", {}];
let recordName = "commentary"; // of the transcript's video

commentator.token = memory.get("token", "sessionStorage") ?? "";
commentator.previousOf = (timeS, nWords) => transcript.record.before(timeS, nWords);
Object.assign(player.on, { changed: showPlace, broken: fail, stopped: redrawState });

// Output of the model.

function hear(segment) {
  captions.show(segment);
  transcript.add(segment);
  voice.say(segment.text);
  stats.add(segment);
  element("stage").dispatchEvent(new CustomEvent("livecc:segment", { detail: segment })); // for measurements
  if (segment.text) showRecord();
}

function hearAnswer(answer) {
  element("question-said").textContent = "";
  transcript.addAnswer(answer);
  voice.say(answer.text);
  showRecord();
}

function hearNotice(code, reason) {
  if (commentator.asked.size === 0) element("question-said").textContent = "";
  messages.show(code, { reason }, { isMild: true, fallback: reason });
}

// Sources.

async function open(opening) {
  closeSource();
  messages.clear();
  showState("connecting");
  let source = null;
  try {
    source = await opening();
    await player.open(source);
  } catch (error) {
    if (source && player.source !== source) return source.close(); // the user has chosen another source
    closeSource();
    fail(error);
    return;
  }
  recordName = source.name;
  transcript.clear();
  showRecord();
  allowSeeking(!source.isLive);
  player.isWanted = true;
  element("stage").focus({ preventScroll: true });
  showEmpty();
  commentator.open();
}

// A transcript stays, so that it can still be saved, until another video is opened.
function closeSource() {
  commentator.close();
  player.close();
  allowSeeking(false);
  captions.clear();
  voice.stop();
  stats.clear();
  showStats();
  element("question-said").textContent = "";
}

function allowSeeking(isAllowed) {
  transcript.canSeek = isAllowed;
  transcript.render();
  document.body.classList.toggle("can-seek", isAllowed);
}

function fail(error) {
  const code = error instanceof SourceError ? error.code : "video_unplayable";
  if (!(error instanceof SourceError)) console.error(error);
  messages.show(code, error.values);
  if (player.source) player.pause();
}

// State of the page.

function redrawState() {
  showState(...lastState);
}

function showState(state, details = {}) {
  lastState = [state, details];
  element("stage").dataset.state = state;
  if (details.session) element("stage").dataset.session = details.session;
  const isPaused = state === "asleep" || (state === "live" && !player.isWanted);
  const shown = isPaused ? "paused" : { token: "waiting" }[state] ?? state;
  element("state").dataset.state = shown;
  element("state").textContent = shown === "idle" ? "" : t(`state_${shown}`);
  element("busy").hidden = !["connecting", "waiting"].includes(state) || player.isLive;
  if (state === "waiting" && !QUIET_CODES.has(details.code)) {
    messages.show(details.code, details, { untilMs: details.untilMs, fallback: details.reason });
  } else if (state === "failed") messages.show(details.code, details, { fallback: details.reason });
  else if (state === "live") messages.clear();
  else if (state === "token") askAgain(details.code === "token_wrong");
  controls.draw();
}

async function askAgain(isWrong) {
  const token = await askForToken(isWrong);
  if (token === null) return closeSource();
  commentator.token = token;
  commentator.retry();
}

function showPlace() {
  controls.draw();
  if (player.isLive) return;
  const { timeS } = player;
  transcript.mark(timeS);
  if (!player.isWanted) captions.still(transcript.record.at(timeS));
}

function showStats() {
  const shown = (number, digits) => {
    const options = { minimumFractionDigits: digits, maximumFractionDigits: digits };
    return number.toLocaleString(document.documentElement.lang, options);
  };
  element("lag").textContent = stats.lagS === null ? "–" : t("seconds", { n: shown(stats.lagS, 2) });
  element("rate").textContent = stats.wordsPerS === null ? "–" : shown(stats.wordsPerS, 1);
  element("dropped").textContent = player.source ? commentator.nDropped : "–";
}

function showRecord() {
  const isEmpty = transcript.record.segments.length === 0 && transcript.record.answers.length === 0;
  element("empty").hidden = !isEmpty;
  for (const button of element("saves").querySelectorAll("button")) button.disabled = isEmpty;
}

function showEmpty() {
  element("empty").dataset.t = player.isLive ? "transcript_empty_live" : "transcript_empty";
  element("empty").textContent = t(element("empty").dataset.t);
}

function showVoices() {
  const list = element("voices");
  const offered = voice.voices(document.documentElement.lang);
  list.replaceChildren(...offered.map((each) => new Option(`${each.name} (${each.lang})`, each.name)));
  const remembered = memory.get("voice");
  if (offered.some((each) => each.name === remembered)) list.value = remembered;
  voice.name = list.value;
  list.hidden = !voice.isOn || list.length === 0;
}

function choose(language) {
  speak(language);
  memory.set("language", language);
  for (const button of element("saves").querySelectorAll("button")) {
    button.setAttribute("aria-label", t("save_as", { form: button.textContent }));
  }
  document.title = t("title");
  nameClip();
  transcript.render();
  messages.redraw();
  if (lastState[0] !== "token") showState(...lastState);
  showStats();
}

// Actions of the user.

element("clip").onclick = () => open(() => openClip(config.clip));
element("camera").onclick = () => open(openCamera);
element("screen").onclick = () => open(openScreen);
element("file").onclick = () => element("file-input").click();
element("file-input").onchange = (event) => {
  const [file] = event.target.files;
  event.target.value = ""; // so that the same file can be chosen again
  if (file) open(() => openFile(file));
};
element("close").onclick = () => {
  closeSource();
  messages.clear();
  element("welcome").querySelector("button:not([hidden])").focus({ preventScroll: true }); // the pressed one is hidden
};
element("saves").onclick = (event) => {
  const { form } = event.target.dataset;
  if (form) save(form, transcript.record, recordName);
};
element("query-form").onsubmit = (event) => {
  event.preventDefault();
  commentator.ask(element("query").value.trim() || config?.query || "");
  element("query-said").textContent = t("query_taken");
};
element("question-form").onsubmit = (event) => {
  event.preventDefault();
  const text = element("question").value.trim();
  if (!text) return;
  const isAsked = commentator.question(text);
  element("question-said").textContent = t(isAsked ? "question_waits" : "question_nobody");
  if (isAsked) element("question").value = "";
};
element("voice").onclick = () => {
  if (!voice.isOn && voice.voices("").length === 0) return messages.show("voice_none", {}, { isMild: true });
  voice.turn(!voice.isOn);
  element("voice").setAttribute("aria-pressed", voice.isOn);
  showVoices();
};
element("voices").onchange = (event) => {
  voice.name = event.target.value;
  memory.set("voice", voice.name);
};
element("theme").onclick = () => {
  const isDark = getComputedStyle(document.documentElement).colorScheme === "dark"
    || (!memory.get("theme") && matchMedia("(prefers-color-scheme: dark)").matches);
  setTheme(isDark ? "light" : "dark");
};
element("language").onchange = (event) => choose(event.target.value);
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    element("stage").classList.toggle("is-target", name === "dragover");
    const [file] = name === "drop" ? event.dataTransfer.files : [];
    if (file) open(() => openFile(file));
  });
}
window.addEventListener("online", () => commentator.state === "waiting" && commentator.retry());
window.addEventListener("pagehide", () => commentator.close());
setInterval(() => player.isLive && controls.draw(), 500);

// The sample video of `livecc demo FILE` is shown by its name.
function nameClip() {
  const name = config?.clip_name;
  element("clip").querySelector("span").textContent = name ? t("clip_named", { name }) : t("clip");
}

function setTheme(theme) {
  document.documentElement.style.colorScheme = theme;
  memory.set("theme", theme);
}

// Start-up.

async function configure() {
  config = await readConfig();
  if (!config) {
    setTimeout(configure, CONFIG_WAIT_MS);
    return;
  }
  if (config.max_pixels) commentator.maxPixels = config.max_pixels;
  element("model").textContent = element("model-name").textContent = config.model ?? "–";
  element("model-name").title = config.model ?? "";
  element("model").hidden = !config.model;
  element("clip").hidden = !config.clip;
  nameClip();
  if (config.query && !element("query").value) element("query").placeholder = config.query;
}

if (memory.get("theme")) setTheme(memory.get("theme"));
for (const [tag, { language }] of Object.entries(LANGUAGES)) element("language").append(new Option(language, tag));
const language = firstLanguage(memory.get("language"));
element("language").value = language;
choose(language);
showRecord();
voice.onVoices(showVoices);
await configure();
document.documentElement.dataset.ready = "true";
