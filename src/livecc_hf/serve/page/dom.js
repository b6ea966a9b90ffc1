// The page's elements by their id.

export const element = (id) => document.getElementById(id);

export function setIcon(button, name) {
  button.querySelector("use").setAttribute("href", `#i-${name}`);
}

/** Remember a choice of the user's, where the browser allows it. */
export const memory = {
  get(name, store = "localStorage") {
    try {
      return window[store].getItem(`livecc.${name}`);
    } catch {
      return null;
    }
  },
  set(name, value, store = "localStorage") {
    try {
      window[store].setItem(`livecc.${name}`, value);
    } catch {
      // a private window
    }
  },
};
