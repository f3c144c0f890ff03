// Building and updating DOM. Text goes in as text nodes only: tenants name themselves.

/** An element with attributes; `style` is an object (inline style attributes are forbidden by the page's policy). */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "style") {
      for (const [property, text] of Object.entries(value)) node.style.setProperty(property, text);
    } else {
      node.setAttribute(name, value === true ? "" : String(value));
    }
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}

/** Makes the children of `node` equal to `children`, in place, so that tooltips and selections survive an update. */
export function show(node, ...children) {
  patchChildren(node, children.flat(Infinity).filter((child) => child !== null && child !== undefined));
}

function patchChildren(node, wanted) {
  const nodes = wanted.map((child) => (child instanceof Node ? child : document.createTextNode(String(child))));
  nodes.forEach((child, index) => {
    const old = node.childNodes[index];
    if (!old) node.append(child);
    else if (!patch(old, child)) old.replaceWith(child);
  });
  while (node.childNodes.length > nodes.length) node.lastChild.remove();
}

function patch(old, wanted) {
  if (old.nodeType !== wanted.nodeType || old.nodeName !== wanted.nodeName) return false;
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== wanted.data) old.data = wanted.data;
    return true;
  }
  for (const { name } of [...old.attributes]) {
    if (name !== "style" && !wanted.hasAttribute(name)) old.removeAttribute(name);
  }
  for (const { name, value } of wanted.attributes) {
    if (name !== "style" && old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  if (old.style.cssText !== wanted.style.cssText) old.style.cssText = wanted.style.cssText;
  patchChildren(old, [...wanted.childNodes]);
  return true;
}
