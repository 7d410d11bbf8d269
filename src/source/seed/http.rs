//! A single request with a JSON body, and the meaning of its response.

use std::sync::Arc;
use std::time::Duration;

use azure_core::http::headers::HeaderName;
use azure_core::http::{HttpClient, Method, Request, Url, new_http_client};
use bytes::Bytes;

use super::PageError;

const TIMEOUT: Duration = Duration::from_secs(60);

/// Most characters of a response quoted in an error message.
const MAX_WORDS: usize = 300;

/// An HTTP client with pooled connections. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Http(Arc<dyn HttpClient>);

/// An error response.
pub(super) struct Refusal {
    pub(super) status: u16,
    /// The service's message.
    pub(super) words: String,
    /// The wait that it requests.
    pub(super) wait: Option<Duration>,
}

impl Http {
    pub(super) fn new() -> Self {
        Self(new_http_client(None))
    }

    /// Posts a request, and returns the body of a success or else the refusal.
    ///
    /// # Errors
    /// When there is no response.
    pub(super) async fn post(
        &self,
        url: &Url,
        headers: impl IntoIterator<Item = (String, String)>,
        body: Bytes,
    ) -> Result<Result<Bytes, Refusal>, PageError> {
        let mut request = Request::new(url.clone(), Method::Post);
        for (name, value) in headers {
            request.insert_header(HeaderName::from(name), value);
        }
        request.set_body(body);
        let unreachable = |error: azure_core::Error| PageError::Unavailable(format!("{url}: {error}"));
        let asked = Box::pin(async {
            let answer = self.0.execute_request(&request).await?;
            let (status, wait) = (u16::from(answer.status()), wait(&answer));
            Ok((status, wait, answer.into_body().collect().await?))
        });
        let timed_out = |_| PageError::Unavailable(format!("{url}: no answer within {} s", TIMEOUT.as_secs()));
        let (status, wait, body) =
            tokio::time::timeout(TIMEOUT, asked).await.map_err(timed_out)?.map_err(unreachable)?;
        if (200..300).contains(&status) {
            return Ok(Ok(body));
        }
        Ok(Err(Refusal { status, words: String::from_utf8_lossy(&body).chars().take(MAX_WORDS).collect(), wait }))
    }
}

/// `Retry-After`, in seconds (<https://www.rfc-editor.org/rfc/rfc9110#field.retry-after>).
fn wait(answer: &azure_core::http::AsyncRawResponse) -> Option<Duration> {
    let told = answer.headers().get_optional_str(&HeaderName::from_static("retry-after"))?;
    told.trim().parse().ok().map(Duration::from_secs)
}

impl Refusal {
    /// Converts it to an error; `advice` says what to do if a retry won't help.
    pub(super) fn error(self, is_throttled: bool, advice: &str) -> PageError {
        let Self { status, words, wait } = self;
        match status {
            429 => PageError::Throttled { cause: words, wait },
            _ if is_throttled => PageError::Throttled { cause: words, wait },
            500.. => PageError::Unavailable(format!("status {status}: {words}")),
            _ => PageError::Refused(format!("refused with status {status}: {words}; {advice}")),
        }
    }
}
