//! Errors as RFC 9457 has them: `application/problem+json`.

use hyper::StatusCode;
use rookery_actors::administration::Refused;
use serde_json::json;

use super::Reply;

/// Why a call is not answered. Nothing was changed then, unless the text says so.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Problem {
    /// As in HTTP.
    pub(crate) status: StatusCode,
    /// What is wrong, and what to do.
    pub(crate) detail: String,
    /// Where it is wrong: a field of the body, of the query or of the path.
    pub(crate) field: Option<String>,
}

impl Problem {
    /// A problem that has no place in the call.
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            status,
            detail: detail.into(),
            field: None,
        }
    }

    /// A field that is not as it has to be.
    pub(crate) fn field(field: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail).at(field)
    }

    /// Something of ours did not work.
    pub(crate) fn failed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, detail)
    }

    /// The same, in this place.
    pub(crate) fn at(self, field: &str) -> Self {
        let field = Some(field.to_owned());
        Self { field, ..self }
    }

    /// Why the node refused; `field` is where the account or contact stands.
    pub(crate) fn refused(field: &str, refused: &Refused) -> Self {
        let status = match refused {
            Refused::Address { .. }
            | Refused::Password(_)
            | Refused::Contact(_)
            | Refused::Text => StatusCode::BAD_REQUEST,
            Refused::Exists(_) | Refused::Full => StatusCode::CONFLICT,
            Refused::NoAccount(_) | Refused::NoContact { .. } => StatusCode::NOT_FOUND,
            Refused::Undelivered(_) | Refused::Untold { .. } | Refused::Failed(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        };
        let field = match refused {
            Refused::Password(_) => Some("password"),
            Refused::Text => Some("body"),
            Refused::NoContact { .. } => Some("contact"),
            Refused::Untold { .. } | Refused::Failed(_) | Refused::Full => None,
            _ => Some(field),
        };
        Self {
            field: field.map(str::to_owned),
            ..Self::new(status, refused.to_string())
        }
    }
}

impl From<Problem> for Reply {
    fn from(problem: Problem) -> Self {
        let Problem {
            status,
            detail,
            field,
        } = problem;
        let mut body = json!({
            "title": status.canonical_reason().unwrap_or("Error"),
            "status": status.as_u16(),
            "detail": detail,
        });
        if let Some(field) = field {
            body["field"] = field.into();
        }
        Self {
            status,
            body: Some(body),
        }
    }
}
