// Lets pages that are opened from files be searched. A browser starts no worker for such a page, so
// the worker's script runs in a hidden frame. The name of this file tells the theme that a stand-in
// is here, which it would fetch otherwise.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(script) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.frame.srcdoc = "<!doctype html><title>Search</title>";
      this.started = new Promise((resolve) => {
        this.frame.onload = () => this.start(new URL(script, document.baseURI).href, resolve);
      });
      document.body.append(this.frame);
    }

    // Run the script in the frame; what it posts are messages of this worker.
    start(address, resolve) {
      const { contentWindow: inside, contentDocument: page } = this.frame;
      inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      const element = page.createElement("script");
      element.onload = resolve;
      element.src = address;
      page.body.append(element);
    }

    postMessage(data) {
      const message = new MessageEvent("message", { data });
      this.started.then(() => this.frame.contentWindow.dispatchEvent(message));
    }
  };
}
