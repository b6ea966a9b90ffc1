// What the page is told by its server, and what is wrong when nothing answers.

const CONFIG = "v1/config";
const WAIT_MS = 5000;

async function asked(path, headers = {}) {
  return fetch(new URL(path, document.baseURI), { headers, cache: "no-store", signal: AbortSignal.timeout(WAIT_MS) });
}

/** Return the server's answer, or `null` if it gives none. */
export async function readConfig() {
  try {
    const answer = await asked(CONFIG);
    return answer.ok ? await answer.json() : null;
  } catch {
    return null;
  }
}

/** Return why a connection was refused: the name of a text of words_*.js, and what the server says of itself. */
export async function diagnose(token) {
  let health;
  try {
    health = await (await asked("health")).json();
  } catch {
    return { code: "unreachable" };
  }
  if (health.status === "failed") return { code: "model_failed", reason: health.reason };
  if (health.status !== "ready") return { code: health.status === "stopping" ? "stopping" : "loading" };
  try {
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    if ((await asked("metrics", headers)).status === 401) return { code: token ? "token_wrong" : "token_needed" };
  } catch {
    return { code: "unreachable" };
  }
  return { code: "refused" };
}
