// The server's configuration for the page, and the reason for a refused connection.

const CONFIG = "v1/config";
const WAIT_MS = 5000;

async function get(path, headers = {}) {
  return fetch(new URL(path, document.baseURI), { headers, cache: "no-store", signal: AbortSignal.timeout(WAIT_MS) });
}

/** Return the server's configuration, or `null` if it does not answer. */
export async function readConfig() {
  try {
    const answer = await get(CONFIG);
    return answer.ok ? await answer.json() : null;
  } catch {
    return null;
  }
}

/** Return why a connection was refused: `code` names a text of words_*.js, `reason` is the server's own message. */
export async function diagnose(token) {
  let health;
  try {
    health = await (await get("health")).json();
  } catch {
    return { code: "unreachable" };
  }
  if (health.status === "failed") return { code: "model_failed", reason: health.reason };
  if (health.status !== "ready") return { code: health.status === "stopping" ? "stopping" : "loading" };
  try {
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    if ((await get("metrics", headers)).status === 401) return { code: token ? "token_wrong" : "token_needed" };
  } catch {
    return { code: "unreachable" };
  }
  return { code: "refused" };
}
