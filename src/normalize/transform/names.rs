//! Extraction of names from ARNs, URLs and Lambda function names.

/// The last part of an ARN: `…:role/path/deployer` → `deployer`. Other texts are returned unchanged.
pub(super) fn arn_resource(text: &str) -> &str {
    if !text.starts_with("arn:") {
        return text;
    }
    text.rsplit(['/', ':']).next().unwrap_or(text)
}

/// The resource of an ARN without its kind: `oidc-provider/token.example.com/tenant` → `token.example.com/tenant`. A
/// final `:*`, which means all log streams of a group, is cut off. Other texts are returned unchanged.
pub(super) fn arn_path(text: &str) -> &str {
    let resource = text.strip_prefix("arn:").and_then(|rest| rest.splitn(5, ':').nth(4));
    resource.map_or(text, |resource| {
        let path = resource.split_once(['/', ':']).map_or(resource, |(_, path)| path);
        path.strip_suffix(":*").unwrap_or(path)
    })
}

/// The last but one part of an ARN's resource, unless that is its kind: `…:task/blue/0123` → `blue`,
/// `…:task-definition/web:7` → `web`.
pub(super) fn arn_parent(text: &str) -> Option<&str> {
    let resource = text.strip_prefix("arn:")?.splitn(5, ':').nth(4)?;
    let mut parts = resource.rsplit(['/', ':']).skip(1);
    let parent = parts.next().filter(|parent| !parent.is_empty())?;
    parts.next().map(|_| parent)
}

/// The part after the kind in an ARN's resource, if more follows: `…:stream/orders/consumer/audit:17` → `orders`.
pub(super) fn arn_owner(text: &str) -> Option<&str> {
    let resource = text.strip_prefix("arn:")?.splitn(5, ':').nth(4)?;
    let mut parts = resource.split(['/', ':']).skip(1);
    let owner = parts.next().filter(|owner| !owner.is_empty())?;
    parts.next().map(|_| owner)
}

/// The last but one part of a URL's path, if there is one, and the last:
/// `https://sqs.eu-west-1.amazonaws.com/111122223333/orders` → `111122223333`, `orders`.
pub(super) fn url_path(text: &str) -> Option<(Option<&str>, &str)> {
    let (_, rest) = text.split_once("://")?;
    let (_, path) = rest.trim_end_matches('/').split_once('/')?;
    let mut parts = path.rsplit('/');
    let last = parts.next()?;
    Some((parts.next().filter(|parent| !parent.is_empty()), last))
}

pub(super) fn arn_part(text: &str, part: usize) -> Option<&str> {
    let parts = text.starts_with("arn:").then(|| text.split(':'));
    parts?.nth(part).filter(|part| !part.is_empty())
}

/// Function and qualifier of `name`, `name:qualifier`, `account:function:name[:qualifier]` or an ARN
/// (<https://docs.aws.amazon.com/lambda/latest/api/API_GetFunction.html>).
pub(super) fn lambda_name(text: &str) -> Option<(&str, Option<&str>)> {
    let tail = match text.find("function:") {
        Some(at) => text.get(at + "function:".len()..)?,
        None => text,
    };
    let mut parts = tail.split(':');
    Some((parts.next().filter(|name| !name.is_empty())?, parts.next().filter(|qualifier| !qualifier.is_empty())))
}
