// Starts the page. A browser drops what it is loading when an interface of the host comes or goes, as a container's does:
// the page then begins again, instead of waiting for ever.

const AGAIN_MS = 2000;

async function boot() {
  if (!globalThis.uPlot) throw new Error("the plotter was not loaded");
  await import("./app.js");
}

boot().catch(() => setTimeout(() => location.reload(), AGAIN_MS));
