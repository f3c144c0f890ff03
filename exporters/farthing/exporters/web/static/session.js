// Logging in and out. A token goes to the server once, for a cookie that no script can read; nothing here keeps it.

const AGAIN_MS = 1000;

/** Thrown when the server demands a login. */
export class LoginNeededError extends Error {}

/** The token of a login link (`…/login#token=…`), or null. It is taken out of the address and the tab's history at once. */
export function tokenOfAddress() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given !== null || location.pathname.endsWith("/login")) history.replaceState(null, "", "./");
  return given;
}

/** Exchanges a token for a session; throws an Error that says why it cannot. */
export async function login(token) {
  const post = () => fetch("login", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ token }), cache: "no-store" });
  // A login link's token is nowhere else by now: a change of the host's network must not lose it.
  const answer = await post().catch(() => new Promise((later) => setTimeout(later, AGAIN_MS)).then(post));
  if (!answer.ok) throw new Error(await problemOf(answer));
}

/** Ends the session, and begins the page anew so that nothing of it stays in memory. */
export async function logout() {
  await fetch("logout", { method: "POST", cache: "no-store" });
  location.replace("./");
}

/** The answer of a path below the page, parsed by `parse`; LoginNeededError for 401, an Error with the server's words else. */
export async function read(path, parse = JSON.parse) {
  const answer = await fetch(path, { cache: "no-store" });
  if (answer.status === 401) throw new LoginNeededError(await problemOf(answer));
  if (!answer.ok) throw new Error(`${path} answered ${answer.status}: ${await problemOf(answer)}`);
  return parse(await answer.text());
}

async function problemOf(answer) {
  try {
    return (await answer.json()).error ?? answer.statusText;
  } catch {
    return answer.statusText || "no reason given";
  }
}
