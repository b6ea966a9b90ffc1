// Access to the page's elements, and stored choices.

export const element = (id) => document.getElementById(id);

export function setIcon(button, name) {
  button.querySelector("use").setAttribute("href", `#i-${name}`);
}

/** Store a choice of the user, if the browser allows it. */
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
      // not allowed, such as in a private window
    }
  },
};
