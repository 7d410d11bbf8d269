//! Runs the real binary as a user would, on a free port.

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::program::{self, catchment};

/// Long enough for a busy machine; a test that waits this long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// `catchment serve` with this configuration, written to `folder/catchment.toml`, on a port of its choice.
pub(crate) fn serve(folder: &Path, config: &str) -> Command {
    let path = folder.join("catchment.toml");
    std::fs::write(&path, config).unwrap();
    let mut command = catchment();
    command.arg("serve").arg("--config").arg(path).args(["--listen", "127.0.0.1:0"]);
    command
}

/// A running gateway; killed when dropped.
pub(crate) struct Server {
    child: Child,
    address: SocketAddr,
    log: Receiver<String>,
    /// With HTTPS: the options with which curl connects.
    https: Option<Vec<String>>,
}

impl Server {
    /// Runs [`serve`].
    pub(crate) fn serve(folder: &Path, config: &str) -> Self {
        Self::start(serve(folder, config))
    }

    /// Runs a command that serves on a port of its choice, and waits until it is ready.
    pub(crate) fn start(mut command: Command) -> Self {
        command.stdout(Stdio::null());
        Self::spawn(command, None)
    }

    /// The same for a server with HTTPS, to which curl connects with these options.
    pub(crate) fn start_https(mut command: Command, curl: &[String]) -> Self {
        command.stdout(Stdio::null());
        Self::spawn(command, Some(curl.to_vec()))
    }

    /// The same; also returns its standard output up to a line that contains `last`.
    pub(crate) fn start_and_read(mut command: Command, last: &str) -> (Self, String) {
        command.stdout(Stdio::piped());
        let mut server = Self::spawn(command, None);
        let mut said = String::new();
        let mut lines = BufReader::new(server.child.stdout.take().unwrap()).lines();
        while !said.contains(last) {
            said.push_str(&lines.next().expect("more to come").unwrap());
            said.push('\n');
        }
        (server, said)
    }

    fn spawn(mut command: Command, https: Option<Vec<String>>) -> Self {
        command.args(["--log-format", "json"]).stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stderr = child.stderr.take().unwrap();
        let (sender, log) = sync_channel(100_000);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let _ = sender.try_send(line);
            }
        });
        let mut seen = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        let address = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = log.recv_timeout(left) else {
                let _ = child.kill();
                panic!("the server did not say where it listens:\n{}", seen.join("\n"));
            };
            let fields = serde_json::from_str::<Value>(&line).unwrap_or_default();
            let find = |value: &Value| value.get("address").and_then(Value::as_str).map(str::to_owned);
            let address = find(&fields).or_else(|| fields.get("fields").and_then(find));
            seen.push(line);
            if let Some(address) = address {
                break address.parse().unwrap();
            }
        };
        let server = Self { child, address, log, https };
        server.wait_until("ready", || server.try_get("/readyz").is_some_and(|(status, _)| status == 200));
        server
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self, path: &str) -> String {
        match self.https {
            None => format!("http://{}{path}", self.address),
            // The name in the tests' certificates.
            Some(_) => format!("https://localhost:{}{path}", self.address.port()),
        }
    }

    /// Status and body of a response; `None` if the server can't be reached.
    pub(crate) fn try_get(&self, path: &str) -> Option<(u16, String)> {
        if let Some(options) = &self.https {
            let mut curl = Command::new("curl");
            curl.args(["-s", "--max-time", "60", "-w", "\n%{http_code}"]).args(options).arg(self.url(path));
            let told = program::finish(&mut curl, b"");
            let (body, status) = told.stdout.rsplit_once('\n').filter(|_| told.code == Some(0))?;
            return Some((status.parse().unwrap(), body.to_owned()));
        }
        let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE)).build();
        let mut response = ureq::Agent::new_with_config(config).get(self.url(path)).call().ok()?;
        let status = response.status().as_u16();
        Some((status, response.body_mut().with_config().limit(1 << 30).read_to_string().ok()?))
    }

    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        self.try_get(path).unwrap_or_else(|| panic!("no answer to {path}; log:\n{}", self.log_lines().join("\n")))
    }

    pub(crate) fn get_json(&self, path: &str) -> Value {
        let (status, body) = self.get(path);
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}"))
    }

    /// Number of records delivered by the sources since the start.
    pub(crate) fn records(&self) -> u64 {
        let sources = self.get_json("/v1/sources");
        sources["sources"].as_array().unwrap().iter().map(|source| source["records"].as_u64().unwrap()).sum()
    }

    /// The sum of a metric over all label sets that contain this text: `outcome="changes"`.
    pub(crate) fn metric(&self, name: &str, label: &str) -> f64 {
        let (status, text) = self.get("/metrics");
        assert_eq!(status, 200);
        let sample = |line: &str| {
            let labels = line.strip_prefix(name)?;
            let (labels, value) = labels.rsplit_once(' ')?;
            ((labels.is_empty() || labels.starts_with('{')) && labels.contains(label)).then(|| value.parse::<f64>())
        };
        text.lines().filter_map(sample).map(Result::unwrap).sum()
    }

    /// The events of a bounded request (NDJSON).
    pub(crate) fn events(&self, parameters: &str) -> Vec<Value> {
        let (status, body) = self.get(&format!("/v1/events?format=ndjson&{parameters}"));
        assert_eq!(status, 200, "{parameters}: {body}");
        body.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The resident memory.
    pub(crate) fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Number of open files and sockets.
    pub(crate) fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// All events in the log.
    pub(crate) fn all_events(&self) -> Vec<Value> {
        self.events("since=1970-01-01T00:00:00Z&until=0s")
    }

    /// Waits for a condition.
    pub(crate) fn wait_until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds() {
            assert!(Instant::now() < deadline, "still not {what}; log:\n{}", self.log_lines().join("\n"));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Opens an SSE stream.
    pub(crate) fn stream(&self, path: &str, headers: &[(&str, &str)]) -> Frames {
        Frames::open(self.address, path, headers)
    }

    /// Waits until all of these texts were logged since the log was last read; returns the new lines. A line can arrive
    /// later than what it reports: another thread reads it.
    pub(crate) fn wait_for_log(&self, texts: &[&str]) -> String {
        let (deadline, mut log) = (Instant::now() + PATIENCE, String::new());
        loop {
            self.log_lines().iter().for_each(|line| log.extend([line, "\n"]));
            if texts.iter().all(|text| log.contains(text)) {
                return log;
            }
            assert!(Instant::now() < deadline, "not logged: one of {texts:?}; log:\n{log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Everything logged since the log was last read, by a server that has ended.
    pub(crate) fn rest_of_log(&mut self) -> String {
        self.wait();
        self.log.iter().collect::<Vec<_>>().join("\n")
    }

    /// What was logged since the last call.
    pub(crate) fn log_lines(&self) -> Vec<String> {
        self.log.try_iter().collect()
    }

    pub(crate) fn signal(&self, name: &str) {
        assert!(program::signal(name, self.child.id().into()), "the server has ended");
    }

    /// Tells the server to stop, and waits for its end.
    pub(crate) fn terminate(mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait()
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the server does not end; log:\n{}", self.log_lines().join("\n"));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// kill -9.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A frame of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) event: Option<String>,
    pub(crate) id: Option<String>,
    pub(crate) data: String,
}

impl Frame {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("{error}: {}", self.data))
    }
}

/// The frames of a stream, parsed as in the HTML standard, section 9.2.6.
pub(crate) struct Frames {
    lines: BufReader<Chunked>,
}

impl Frames {
    /// Whether the response has ended as HTTP requires of a complete one.
    pub(crate) fn is_complete(&self) -> bool {
        self.lines.get_ref().ended
    }

    pub(crate) fn open(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Self {
        use std::io::Write;
        let mut socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\naccept: text/event-stream\r\n");
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("\r\n");
        socket.write_all(request.as_bytes()).unwrap();
        let mut reader = BufReader::new(socket);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut head).unwrap() > 0, "closed within the head: {head}");
        }
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        Self { lines: BufReader::new(Chunked { inner: reader, left: 0, ended: false }) }
    }
}

impl Iterator for Frames {
    type Item = Frame;

    /// The next frame with data, including control frames; `None` at the end of the stream.
    fn next(&mut self) -> Option<Frame> {
        next_frame(&mut self.lines)
    }
}

/// Parses the next frame with data from the lines of a stream.
pub(crate) fn next_frame(lines: &mut impl BufRead) -> Option<Frame> {
    let mut frame = Frame::default();
    let mut has_data = false;
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line).unwrap_or(0) == 0 {
            return None;
        }
        let line = line.trim_end_matches(['\n', '\r']);
        if line.is_empty() {
            if has_data {
                return Some(frame);
            }
            frame = Frame::default();
            continue;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => frame.event = Some(value.to_owned()),
            "id" => frame.id = Some(value.to_owned()),
            "data" => {
                if has_data {
                    frame.data.push('\n');
                }
                frame.data.push_str(value);
                has_data = true;
            }
            _ => {}
        }
    }
}

/// Decodes HTTP/1.1's chunked transfer coding.
struct Chunked {
    inner: BufReader<TcpStream>,
    left: usize,
    ended: bool,
}

impl Read for Chunked {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.left == 0 && !self.ended {
            let mut line = String::new();
            if self.inner.read_line(&mut line)? == 0 {
                return Ok(0);
            }
            let line = line.trim();
            if line.is_empty() {
                continue;
            }
            self.left = usize::from_str_radix(line, 16).map_err(std::io::Error::other)?;
            self.ended = self.left == 0;
        }
        if self.ended {
            return Ok(0);
        }
        let most = buffer.len().min(self.left);
        let read = self.inner.read(&mut buffer[..most])?;
        self.left -= read;
        Ok(read)
    }
}

/// A temporary folder for one test.
pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// Where the public SSE clients are installed by `tests/run`.
pub(crate) fn clients() -> PathBuf {
    let path = std::env::var_os("CATCHMENT_TEST_CLIENTS").map(PathBuf::from);
    path.unwrap_or_else(|| panic!("CATCHMENT_TEST_CLIENTS is not set: tests/run installs the clients and sets it"))
}
