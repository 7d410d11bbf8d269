//! Requests to Azure Resource Manager.

use std::time::Duration;

use azure_core::http::headers::AUTHORIZATION;
use azure_core::http::{Method, Request, Url, new_http_client};
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(30);

/// The result of a request.
#[derive(Debug)]
pub(super) enum Answer {
    Found(Value),
    /// The identity has no permission.
    Forbidden,
    Failed(String),
}

/// Requests a resource.
pub(super) async fn get(base: &str, path: &str, version: &str, token: &str) -> Answer {
    match tokio::time::timeout(TIMEOUT, Box::pin(ask(base, path, version, token))).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => Answer::Failed(error.to_string()),
        Err(_) => Answer::Failed(format!("no answer within {} s", TIMEOUT.as_secs())),
    }
}

async fn ask(base: &str, path: &str, version: &str, token: &str) -> azure_core::Result<Answer> {
    let url = Url::parse(&format!("{}{path}?api-version={version}", base.trim_end_matches('/')))?;
    let mut request = Request::new(url, Method::Get);
    request.insert_header(AUTHORIZATION, format!("Bearer {token}"));
    let answer = new_http_client(None).execute_request(&request).await?;
    let status = u16::from(answer.status());
    let body = answer.into_body().collect().await?;
    Ok(match status {
        200 => Answer::Found(serde_json::from_slice(&body)?),
        401 | 403 => Answer::Forbidden,
        _ => {
            let words = String::from_utf8_lossy(&body).chars().take(300).collect::<String>();
            Answer::Failed(format!("status {status}: {words}"))
        }
    })
}
