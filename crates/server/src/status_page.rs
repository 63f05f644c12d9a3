//! The status page at `admin.listen`: files that are part of the program and need no token. What they show
//! comes from the API, for which the page asks for one.

use hyper::StatusCode;
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderValue, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};

use crate::web::{self, Answer};

/// Nothing but these files and the API of the same origin.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The file at this path, if it is part of the page.
pub(crate) fn file(path: &str) -> Option<Answer> {
    let (media_type, content) = match path {
        "/" => (
            "text/html; charset=utf-8",
            include_str!("status_page/status.html"),
        ),
        "/status.css" => (
            "text/css; charset=utf-8",
            include_str!("status_page/status.css"),
        ),
        "/status.js" => (
            "text/javascript; charset=utf-8",
            include_str!("status_page/status.js"),
        ),
        "/status.svg" => ("image/svg+xml", include_str!("status_page/status.svg")),
        _ => return None,
    };
    let mut answer = web::typed(StatusCode::OK, media_type, content);
    let headers = answer.headers_mut();
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-cache"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    Some(answer)
}
