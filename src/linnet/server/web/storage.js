// What this browser keeps for the page: texts by name. One that is told to keep nothing, or has no room left, changes nothing else.

const storage = found();

function found() {
  try {
    return window.localStorage;
  } catch {
    return null;
  }
}

export const isThere = storage !== null;

export const names = () => (isThere ? Object.keys(storage) : []);

/** null: there is none. */
export const read = (name) => (isThere ? storage.getItem(name) : null);

/** Whether it is kept. */
export function write(name, text) {
  if (!isThere) return false;
  try {
    storage.setItem(name, text);
    return true;
  } catch {
    return false; // no room
  }
}

export const erase = (name) => {
  if (isThere) storage.removeItem(name);
};
