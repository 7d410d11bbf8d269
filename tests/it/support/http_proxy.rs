//! An HTTP proxy that sees every request to a service and breaks some: it delays them, cuts the connection, responds
//! with errors of its own, or truncates responses.

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// The fault of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is delayed.
    Delay(Duration),
    /// The connection is cut without a response, before the service has seen the request.
    Cut,
    /// The connection is cut without a response, although the service has executed the request.
    CutAfter,
    /// 500.
    Internal,
    /// 503, S3's response to too many requests.
    SlowDown,
    /// 400, as from the JSON services.
    Throttle,
    /// The response's head is complete, its body is not.
    Truncate,
}

/// A request or a response.
#[derive(Clone, Debug, Default)]
pub(crate) struct Message {
    /// The first line.
    pub(crate) line: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Message {
    fn read(from: &mut impl BufRead) -> Option<Self> {
        let mut message = Self::default();
        from.read_line(&mut message.line).ok().filter(|read| *read > 0)?;
        loop {
            let mut line = String::new();
            from.read_line(&mut line).ok().filter(|read| *read > 0)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            message.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        if let Some(length) = message.header("content-length") {
            message.body = vec![0; length.parse().ok()?];
            from.read_exact(&mut message.body).ok()?;
        } else if message.line.starts_with("HTTP/") {
            from.read_to_end(&mut message.body).ok()?;
        }
        Some(message)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// The operation: the last word of `x-amz-target`, or the method.
    pub(crate) fn operation(&self) -> &str {
        let method = self.line.split(' ').next().unwrap_or_default();
        self.header("x-amz-target").and_then(|target| target.rsplit('.').next()).unwrap_or(method)
    }

    fn head(&self) -> Vec<u8> {
        let mut head = self.line.trim_end().to_owned();
        for (name, value) in self.headers.iter().filter(|(name, _)| name != "connection") {
            head.push_str(&format!("\r\n{name}: {value}"));
        }
        head.push_str("\r\nconnection: close\r\n\r\n");
        head.into_bytes()
    }
}

type Decide = Box<dyn Fn(&Message) -> Option<Fault> + Send + Sync>;
type See = Box<dyn Fn(&Message, Option<&Message>) + Send + Sync>;

struct Shared {
    service: SocketAddr,
    decide: Decide,
    see: See,
    ended: AtomicBool,
    faults: AtomicUsize,
}

/// A running proxy; stopped when dropped.
pub(crate) struct HttpProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl HttpProxy {
    /// `decide` chooses the fault of a request; `see` is called with each request before the service sees it (without a
    /// response), and again with the response before the client does.
    pub(crate) fn start(
        service: SocketAddr,
        decide: impl Fn(&Message) -> Option<Fault> + Send + Sync + 'static,
        see: impl Fn(&Message, Option<&Message>) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            service,
            decide: Box::new(decide),
            see: Box::new(see),
            ended: AtomicBool::new(false),
            faults: AtomicUsize::new(0),
        });
        let proxy = Self { address, shared: Arc::clone(&shared) };
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if shared.ended.load(Ordering::SeqCst) {
                    break;
                }
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || shared.serve(&client));
            }
        });
        proxy
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Number of requests with a fault.
    pub(crate) fn faults(&self) -> usize {
        self.shared.faults.load(Ordering::SeqCst)
    }
}

impl Drop for HttpProxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        // Wakes the listener, so that it notices.
        drop(TcpStream::connect(self.address));
    }
}

impl Shared {
    fn serve(&self, client: &TcpStream) {
        let Some(request) = Message::read(&mut BufReader::new(client)) else { return };
        let fault = (self.decide)(&request);
        self.faults.fetch_add(usize::from(fault.is_some()), Ordering::SeqCst);
        let own = |status: &str, body: &str| {
            let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            let _ = (&*client).write_all(&[head.as_bytes(), body.as_bytes()].concat());
        };
        match fault {
            Some(Fault::Cut) => {
                let _ = client.shutdown(Shutdown::Both);
                return;
            }
            Some(Fault::Internal) => return own("500 Internal Server Error", ""),
            Some(Fault::SlowDown) => {
                return own("503 Slow Down", "<Error><Code>SlowDown</Code><Message>Please reduce</Message></Error>");
            }
            Some(Fault::Throttle) => {
                return own("400 Bad Request", r#"{"__type":"com.amazonaws.sqs#RequestThrottled","message":"slower"}"#);
            }
            Some(Fault::Delay(wait)) => std::thread::sleep(wait),
            _ => {}
        }
        (self.see)(&request, None);
        let Some(answer) = self.ask(&request) else { return };
        if fault == Some(Fault::CutAfter) {
            let _ = client.shutdown(Shutdown::Both);
            return;
        }
        (self.see)(&request, Some(&answer));
        let body = if fault == Some(Fault::Truncate) { &answer.body[..answer.body.len() / 2] } else { &answer.body };
        let _ = (&*client).write_all(&[answer.head(), body.to_vec()].concat());
        let _ = client.shutdown(Shutdown::Both);
    }

    fn ask(&self, request: &Message) -> Option<Message> {
        let mut service = TcpStream::connect(self.service).ok()?;
        service.write_all(&[request.head(), request.body.clone()].concat()).ok()?;
        Message::read(&mut BufReader::new(service))
    }
}
