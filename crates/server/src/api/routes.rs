//! Which calls there are, and which one a path means.

use hyper::{Method, StatusCode};

use super::Problem;

/// What a call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Describe,
    ListUsers,
    AddUser,
    ShowUser,
    DeleteUser,
    SetPassword,
    DisableUser,
    EnableUser,
    ShowRoster,
    PutContact,
    DeleteContact,
    ListSessions,
    EndSessions,
    SendMessage,
    Announce,
    ShowNodes,
    ShowStatus,
    Drain,
    ShowLog,
    SetLog,
    Reload,
    ShowCertificate,
    Trace,
}

/// A call that there is.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) method: Method,
    /// Segments in braces are variable.
    pub(super) path: &'static str,
    /// The parameters of its query.
    pub(super) query: &'static [&'static str],
    pub(super) operation: Operation,
    /// Its name in the description and in the audit log.
    pub(super) id: &'static str,
}

const fn route(
    method: Method,
    path: &'static str,
    query: &'static [&'static str],
    operation: Operation,
    id: &'static str,
) -> Route {
    Route {
        method,
        path,
        query,
        operation,
        id,
    }
}

/// All calls. `openapi.json` describes each.
#[rustfmt::skip]
pub(super) const ROUTES: &[Route] = &[
    route(Method::GET, "/api/v1/openapi.json", &[], Operation::Describe, "describe"),
    route(Method::GET, "/api/v1/users", &["domain", "after", "limit", "disabled"], Operation::ListUsers, "user-list"),
    route(Method::POST, "/api/v1/users", &[], Operation::AddUser, "user-add"),
    route(Method::GET, "/api/v1/users/{jid}", &[], Operation::ShowUser, "user-show"),
    route(Method::DELETE, "/api/v1/users/{jid}", &[], Operation::DeleteUser, "user-delete"),
    route(Method::PUT, "/api/v1/users/{jid}/password", &[], Operation::SetPassword, "user-password"),
    route(Method::POST, "/api/v1/users/{jid}/disable", &[], Operation::DisableUser, "user-disable"),
    route(Method::POST, "/api/v1/users/{jid}/enable", &[], Operation::EnableUser, "user-enable"),
    route(Method::GET, "/api/v1/users/{jid}/roster", &[], Operation::ShowRoster, "roster-list"),
    route(Method::PUT, "/api/v1/users/{jid}/roster/{contact}", &[], Operation::PutContact, "roster-set"),
    route(Method::DELETE, "/api/v1/users/{jid}/roster/{contact}", &[], Operation::DeleteContact, "roster-remove"),
    route(Method::GET, "/api/v1/sessions", &["jid", "after", "limit"], Operation::ListSessions, "session-list"),
    route(Method::DELETE, "/api/v1/sessions/{jid}", &[], Operation::EndSessions, "session-kick"),
    route(Method::POST, "/api/v1/messages", &[], Operation::SendMessage, "message-send"),
    route(Method::POST, "/api/v1/announcements", &[], Operation::Announce, "message-announce"),
    route(Method::GET, "/api/v1/nodes", &[], Operation::ShowNodes, "cluster-status"),
    route(Method::GET, "/api/v1/status", &[], Operation::ShowStatus, "status"),
    route(Method::POST, "/api/v1/drain", &["node"], Operation::Drain, "drain"),
    route(Method::GET, "/api/v1/log", &["node"], Operation::ShowLog, "log-show"),
    route(Method::PUT, "/api/v1/log", &["node"], Operation::SetLog, "log-level"),
    route(Method::POST, "/api/v1/config/reload", &["node"], Operation::Reload, "config-reload"),
    route(Method::GET, "/api/v1/certificate", &["node"], Operation::ShowCertificate, "certificate-show"),
    route(Method::GET, "/api/v1/trace", &["jid", "for", "bodies"], Operation::Trace, "trace"),
];

/// The call that a path means, and the variable parts of the path.
///
/// # Errors
/// `404` for a path that no call has, `405` for one that has no such method.
pub(super) fn find(method: &Method, path: &str) -> Result<(&'static Route, Vec<String>), Problem> {
    let mut others = Vec::new();
    for route in ROUTES {
        let Some(variables) = variables(route.path, path) else {
            continue;
        };
        if route.method == *method {
            let decoded: Option<Vec<_>> = variables.iter().map(|text| decode(text)).collect();
            let decoded = decoded
                .ok_or_else(|| Problem::field("path", "the path is not encoded as it has to be"))?;
            return Ok((route, decoded));
        }
        others.push(route.method.as_str());
    }
    if others.is_empty() {
        let detail = "there is no such call; /api/v1/openapi.json describes those that there are";
        return Err(Problem::new(StatusCode::NOT_FOUND, detail));
    }
    let detail = format!("this path takes {}", others.join(", "));
    Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail))
}

/// What stands in a path for the segments in braces; `None` if the path is another one.
fn variables<'p>(route: &str, path: &'p str) -> Option<Vec<&'p str>> {
    let mut variables = Vec::new();
    let (mut expected, mut found) = (route.split('/'), path.split('/'));
    loop {
        match (expected.next(), found.next()) {
            (None, None) => return Some(variables),
            (Some(name), Some(value)) if name.starts_with('{') && !value.is_empty() => {
                variables.push(value);
            }
            (Some(expected), Some(found)) if expected == found => {}
            _ => return None,
        }
    }
}

/// Undoes percent-encoding (RFC 3986 §2.1); `None` if it is damaged or no UTF-8.
pub(super) fn decode(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let mut digit = || char::from(bytes.next()?).to_digit(16);
            let (high, low) = (digit()?, digit()?);
            decoded.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            decoded.push(byte);
        }
    }
    String::from_utf8(decoded).ok()
}

/// Percent-encodes a segment of a path, or a value of a query.
pub(crate) fn encode(text: &str) -> String {
    use std::fmt::Write as _;
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~@".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a String does not fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// A path with those of the parameters that have a value.
pub(crate) fn with_query(path: &str, parameters: &[(&str, Option<&str>)]) -> String {
    let given = parameters
        .iter()
        .filter_map(|(name, value)| value.map(|value| format!("{name}={}", encode(value))));
    let given: Vec<_> = given.collect();
    if given.is_empty() {
        path.into()
    } else {
        format!("{path}?{}", given.join("&"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(method: &Method, path: &str) -> Result<(&'static str, Vec<String>), u16> {
        find(method, path)
            .map(|(route, variables)| (route.id, variables))
            .map_err(|problem| problem.status.as_u16())
    }

    #[test]
    fn paths_mean_calls() {
        let none = Vec::new;
        assert_eq!(id(&Method::GET, "/api/v1/users"), Ok(("user-list", none())));
        let ann = vec!["ann@localhost".to_owned()];
        assert_eq!(
            id(&Method::DELETE, "/api/v1/users/ann%40localhost"),
            Ok(("user-delete", ann))
        );
        let session = vec!["ann@localhost/a b".to_owned()];
        assert_eq!(
            id(&Method::DELETE, "/api/v1/sessions/ann@localhost%2fa%20b"),
            Ok(("session-kick", session))
        );
        assert_eq!(id(&Method::PATCH, "/api/v1/users"), Err(405));
        for path in [
            "/api/v1",
            "/api/v1/users/",
            "/api/v1/users/a/b",
            "/api/v2/users",
        ] {
            assert_eq!(id(&Method::GET, path), Err(404), "{path}");
        }
        for path in ["/api/v1/users/%4", "/api/v1/users/%zz", "/api/v1/users/%ff"] {
            assert_eq!(id(&Method::GET, path), Err(400), "{path}");
        }
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        for text in ["", "ann@localhost/a b", "ä/%?&=#+", "\"\\"] {
            assert_eq!(decode(&encode(text)).as_deref(), Some(text));
        }
        let query = with_query("/x", &[("a", Some("1&2")), ("b", None)]);
        assert_eq!(query, "/x?a=1%262");
    }

    /// The description and the program cannot disagree about what there is.
    #[test]
    fn the_description_has_the_calls_that_there_are() {
        let description: serde_json::Value =
            serde_json::from_str(super::super::DESCRIPTION).unwrap();
        let mut described = Vec::new();
        for (path, methods) in description["paths"].as_object().unwrap() {
            for (method, call) in methods.as_object().unwrap() {
                let parameters = |place: &str| {
                    let all = call["parameters"].as_array().cloned().unwrap_or_default();
                    let there = all.into_iter().filter(|one| one["in"] == place);
                    let names = there.map(|one| one["name"].as_str().unwrap().to_owned());
                    names.collect::<Vec<_>>()
                };
                let braces: Vec<_> = path.split('/').filter(|s| s.starts_with('{')).collect();
                let in_path = parameters("path");
                let in_path: Vec<_> = in_path.iter().map(|name| format!("{{{name}}}")).collect();
                assert_eq!(in_path, braces, "{path}");
                let id = call["operationId"].as_str().unwrap().to_owned();
                let method = method.to_uppercase();
                described.push((method, path.clone(), parameters("query"), id));
            }
        }
        let mut existing: Vec<_> = ROUTES
            .iter()
            .map(|route| {
                let query = route.query.iter().map(ToString::to_string).collect();
                (
                    route.method.to_string(),
                    route.path.to_owned(),
                    query,
                    route.id.to_owned(),
                )
            })
            .collect();
        described.sort();
        existing.sort();
        assert_eq!(described, existing);
    }
}
