//! How an answer is counted in the metrics.

use axum::response::Response;

use super::problem::Kind;
use quorate_engine::metrics::requests::Outcome;

/// How an answer is counted: by its problem, if it is one, else by its status.
pub(super) fn outcome(response: &Response) -> Outcome {
    match response.extensions().get() {
        Some(kind) => of_problem(*kind),
        None => Outcome::of_status(response.status().as_u16()),
    }
}

fn of_problem(kind: Kind) -> Outcome {
    match kind {
        Kind::BadRequest
        | Kind::BadPath
        | Kind::BadParameter
        | Kind::BadHeader
        | Kind::BadContext
        | Kind::BadBody
        | Kind::NoSuchRoute
        | Kind::MethodNotAllowed
        | Kind::HeadTooSlow
        | Kind::BodyTooSlow
        | Kind::TooLarge
        | Kind::TargetTooLong
        | Kind::UnsupportedMediaType
        | Kind::HeadTooLarge
        | Kind::Unauthenticated
        | Kind::Forbidden
        | Kind::CrossSite
        | Kind::TlsRequired
        | Kind::RateLimited
        | Kind::IdempotencyKeyReused => Outcome::ClientError,
        Kind::KeyNotFound
        | Kind::KeyDeleted
        | Kind::NoSuchSibling
        | Kind::NoFeed
        | Kind::CursorExpired
        | Kind::NoSuchSyncPoint
        | Kind::NoSuchExplanation
        | Kind::NoSuchBackup
        | Kind::NoSuchToken
        | Kind::SyncPointGone => Outcome::NotFound,
        Kind::SiblingGone
        | Kind::ConditionFailed
        | Kind::LayoutChanged
        | Kind::LayoutMoving
        | Kind::LayoutNotMoving
        | Kind::NameTaken
        | Kind::BackupRefused
        | Kind::WrongType
        | Kind::BucketNotEmpty
        | Kind::ContextNeeded
        | Kind::ContextAhead
        | Kind::LayoutUnsafe => Outcome::PreconditionFailed,
        Kind::TooManySiblings | Kind::ObjectTooLarge | Kind::ClockFull | Kind::CounterFull => {
            Outcome::KeyFull
        }
        Kind::NoQuorum | Kind::NoReadQuorum | Kind::NoLayoutQuorum | Kind::NoTokenQuorum => {
            Outcome::NoQuorum
        }
        Kind::Overloaded => Outcome::Overloaded,
        Kind::AuthStale
        | Kind::NotFormed
        | Kind::NotReady
        | Kind::Removed
        | Kind::Stopping
        | Kind::HintsFull => Outcome::Unavailable,
        Kind::DiskFull | Kind::BucketsFull | Kind::TokensFull => Outcome::NoSpace,
        Kind::Internal | Kind::Failed => Outcome::Failed,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use axum::response::IntoResponse;

    use super::super::problem::Problem;
    use super::*;

    #[test]
    fn two_problems_of_one_status_are_told_apart() {
        let of = |kind| outcome(&Problem::new(kind, "").into_response());
        assert_eq!(of(Kind::NoQuorum), Outcome::NoQuorum);
        assert_eq!(of(Kind::Overloaded), Outcome::Overloaded);
        assert_eq!(of(Kind::KeyDeleted), Outcome::NotFound);
        assert_eq!(outcome(&StatusCode::NO_CONTENT.into_response()), Outcome::Ok);
        assert_eq!(outcome(&StatusCode::SERVICE_UNAVAILABLE.into_response()), Outcome::Unavailable);
    }
}
