//! A headless Chromium, steered by its DevTools protocol over a pipe.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::{reaper, temporary_folder};

const BROWSER: &str = "/usr/bin/chromium-headless-shell";
const PATIENCE: Duration = Duration::from_secs(60);

/// A browser with one page; dropping it ends it.
pub(crate) struct Browser {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    next: u64,
    session: Option<String>,
    /// What the page said in its console, and what was thrown.
    pub(crate) complaints: Vec<String>,
}

impl Browser {
    /// Shows a page in a window so wide, dark or light.
    pub(crate) fn open(url: &str, width: u32, dark: bool) -> Self {
        assert!(
            Path::new(BROWSER).exists(),
            "{BROWSER} is missing: run `make peers`, or `apt-get install chromium-headless-shell`"
        );
        let folder = temporary_folder();
        // Messages are read from descriptor 3 and written to 4.
        let script = "exec \"$0\" \"$@\" 3<&0 4>&1 >/dev/null 2>&1";
        let mut child = Command::new("sh")
            .args(["-c", script, BROWSER])
            // Its own sandbox wants user namespaces, which containers seldom have.
            .args(["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
            .args(["--remote-debugging-pipe", "--ignore-certificate-errors"])
            .arg(format!("--user-data-dir={}", folder.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        reaper::kill(child.id());
        let mut browser = Self {
            to: child.stdin.take().unwrap(),
            from: BufReader::new(child.stdout.take().unwrap()),
            child,
            next: 0,
            session: None,
            complaints: Vec::new(),
        };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attached = browser.call(
            "Target.attachToTarget",
            json!({ "targetId": target["targetId"], "flatten": true }),
        );
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page.enable", "Runtime.enable", "Log.enable"] {
            browser.call(domain, json!({}));
        }
        let mobile = width < 500;
        browser.call(
            "Emulation.setDeviceMetricsOverride",
            json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": mobile }),
        );
        let scheme = if dark { "dark" } else { "light" };
        browser.call(
            "Emulation.setEmulatedMedia",
            json!({ "features": [ { "name": "prefers-color-scheme", "value": scheme } ] }),
        );
        let gone = browser.call("Page.navigate", json!({ "url": url }));
        assert!(gone.get("errorText").is_none(), "{url}: {gone}");
        browser
    }

    /// Asks the browser for something.
    pub(crate) fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.next += 1;
        let mut message = json!({ "id": self.next, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            message["sessionId"] = session.as_str().into();
        }
        self.to.write_all(message.to_string().as_bytes()).unwrap();
        self.to.write_all(b"\0").unwrap();
        self.to.flush().unwrap();
        loop {
            let mut heard = Vec::new();
            self.from.read_until(0, &mut heard).unwrap();
            heard.pop();
            let heard: Value = serde_json::from_slice(&heard)
                .unwrap_or_else(|_| panic!("the browser ended at {method}"));
            if heard["id"] == self.next {
                assert!(heard.get("error").is_none(), "{method}: {heard}");
                return heard["result"].clone();
            }
            let complains = [
                "Runtime.exceptionThrown",
                "Log.entryAdded",
                "Runtime.consoleAPICalled",
                "Page.javascriptDialogOpening",
            ];
            if heard["method"]
                .as_str()
                .is_some_and(|own| complains.contains(&own))
            {
                self.complaints.push(heard["params"].to_string());
            }
        }
    }

    /// What an expression comes to in the page.
    pub(crate) fn eval(&mut self, expression: &str) -> Value {
        let result = self.call(
            "Runtime.evaluate",
            json!({ "expression": expression, "returnByValue": true, "awaitPromise": true }),
        );
        assert!(
            result.get("exceptionDetails").is_none(),
            "{expression}: {result}"
        );
        result["result"]["value"].clone()
    }

    /// Waits until an expression holds in the page.
    pub(crate) fn until(&mut self, expression: &str) {
        let end = Instant::now() + PATIENCE;
        // The page may not be there yet.
        let asked = format!(
            "(() => {{ try {{ return Boolean({expression}) }} catch {{ return false }} }})()"
        );
        while self.eval(&asked) != true {
            assert!(
                Instant::now() < end,
                "not in time: {expression}\n{}\n{:?}",
                self.eval("document.body.innerText"),
                self.complaints
            );
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Presses a key.
    pub(crate) fn press(&mut self, key: &str, code: u32) {
        let text = if key == "Enter" { "\r" } else { "" };
        for kind in ["keyDown", "keyUp"] {
            let mut event =
                json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code });
            if kind == "keyDown" {
                event["text"] = text.into();
            }
            self.call("Input.dispatchKeyEvent", event);
        }
    }

    /// A picture of the whole page.
    pub(crate) fn picture(&mut self, file: &Path) {
        let taken = self.call(
            "Page.captureScreenshot",
            json!({ "captureBeyondViewport": true }),
        );
        let bytes = BASE64_STANDARD
            .decode(taken["data"].as_str().unwrap())
            .unwrap();
        std::fs::write(file, bytes).unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        reaper::end_group(self.child.id());
        let _ = self.child.kill();
        let _ = self.child.wait();
        reaper::spare(self.child.id());
    }
}
