//! Every route of the client port, once: [`TABLE`].
//!
//! From it come the router, the way of keys that bypasses it, the routes that a 404 names, the
//! operation under which a request is counted, and what the gate asks of a request. A test compares it
//! with `docs/openapi.json`. What is not in it cannot be reached.

use axum::Router;
use axum::extract::{Request, State};
use axum::http::Uri;
use axum::response::IntoResponse;
use axum::routing::{MethodFilter, on};
use quorate_engine::metrics::requests::Operation;
use quorate_engine::node::{Node, Unavailable};
use quorate_protocol::access::Action::{self, *};

use super::access::Arrival;
use super::batch::Within;
use super::gate::{Ready, Time};
use super::problem::{self, Kind, Problem};
use super::route::Needs::{self, Nothing, Right, Token};
use super::route::{Of, Route, Shared, fixed_part};
use super::{
    anti_entropy, auth, backups, batch, buckets, console, description, distrusted, events, explain,
    feed, health, hints, index, inspect, jobs, keys, kv, layout, ring, siblings, types,
};

macro_rules! routes {
    ($(
        #[doc = $summary:literal]
        $name:ident: $method:ident $path:literal => $handler:path,
            $needs:expr, $ready:ident, $time:ident, $counted:ident, [$($parameter:literal),*];
    )*) => {
        $(
            #[doc = $summary]
            pub(super) static $name: Route = Route {
                filter: MethodFilter::$method,
                path: $path,
                prefix: fixed_part($path),
                needs: $needs,
                ready: Ready::$ready,
                time: Time::$time,
                counted: Operation::$counted,
                parameters: &[$($parameter),*],
                handler: |gate, request| Box::pin($handler(gate, request)),
                #[cfg(test)]
                described: (stringify!($method), $summary),
            };
        )*
        /// Every route.
        pub(super) static TABLE: &[&Route] = &[$(&$name),*];
    };
}

/// An action on the key in the path.
const fn of_key(action: Action) -> Needs {
    Needs::Right(action, Of::Key)
}

/// An action on no bucket.
const fn of_cluster(action: Action) -> Needs {
    Needs::Right(action, Of::Cluster)
}

// The summary; method, path and handler; what somebody needs for it, what the node must be ready for, the
// time that it has, and what it is counted as; its query parameters.
routes! {
    /// Read a value
    GET_KEY: GET "/kv/{bucket}/{key}" => kv::get,
        of_key(Read), Reads, OfRequest, Get,
        ["r", "n", "timeout_ms", "sloppy", "sibling", "explain", "wait_ms"];
    /// Write a value
    PUT_KEY: PUT "/kv/{bucket}/{key}" => kv::put,
        of_key(Write), Requests, OfRequest, Put,
        ["w", "n", "timeout_ms", "sloppy", "return_body", "explain"];
    /// Delete a value
    DELETE_KEY: DELETE "/kv/{bucket}/{key}" => kv::delete,
        of_key(Delete), Requests, OfRequest, Delete,
        ["w", "n", "timeout_ms", "sloppy", "return_body", "explain"];
    /// Read a typed value
    GET_TYPED: GET "/types/{bucket}/{key}" => types::get,
        of_key(Read), Reads, OfRequest, Get, ["r", "n", "timeout_ms", "sloppy", "explain"];
    /// Change a typed value
    CHANGE_TYPED: POST "/types/{bucket}/{key}" => types::change,
        of_key(Write), Requests, OfRequest, Put,
        ["w", "n", "timeout_ms", "sloppy", "return_body", "explain"];
    /// Delete a typed value
    DELETE_TYPED: DELETE "/types/{bucket}/{key}" => kv::delete,
        of_key(Delete), Requests, OfRequest, Delete, ["w", "n", "timeout_ms", "sloppy", "explain"];
    /// Carry out many operations
    BATCH: POST "/batch" => batch::run,
        Token, Requests, Longest, Other, ["r", "w", "n", "timeout_ms", "sloppy"];
    /// List keys in conflict
    CONFLICTS: GET "/siblings" => siblings::list,
        Right(List, Of::BucketAsked), Requests, OfRequest, Siblings, ["bucket", "limit", "cursor"];
    /// Inspect a key on every replica
    INSPECT: GET "/siblings/{bucket}/{key}" => inspect::inspect,
        of_key(Read), Reads, OfRequest, Siblings, ["timeout_ms"];
    /// Resolve a conflict
    RESOLVE: POST "/siblings/{bucket}/{key}" => siblings::resolve,
        of_key(Write), Requests, OfRequest, Resolve, ["w", "n", "timeout_ms", "sloppy", "return_body"];
    /// List live keys in order
    KEYS: GET "/keys/{bucket}" => keys::list,
        Right(List, Of::Listing), Reads, OfRequest, Keys, ["prefix", "limit", "cursor"];
    /// Find keys by a secondary index
    INDEX: GET "/index/{bucket}/{index}" => index::list,
        Right(List, Of::Bucket), Reads, OfRequest, Keys, ["eq", "from", "to", "limit", "cursor"];
    /// Follow the changes of a bucket
    FEED: GET "/feed/{bucket}" => feed::read,
        Right(Read, Of::Listing), Reads, Longest, Keys, ["prefix", "cursor", "limit", "wait_ms"];
    /// List buckets with properties of their own
    BUCKETS: GET "/buckets" => buckets::list, of_cluster(Look), Reads, OfRequest, Buckets, [];
    /// Set a bucket's properties
    PUT_BUCKET: PUT "/buckets/{bucket}" => buckets::put,
        Right(AdminBuckets, Of::Bucket), Requests, OfRequest, Buckets, [];
    /// Get a bucket's properties
    GET_BUCKET: GET "/buckets/{bucket}" => buckets::get, of_cluster(Look), Reads, OfRequest, Buckets, [];
    /// Reset a bucket to the defaults
    DELETE_BUCKET: DELETE "/buckets/{bucket}" => buckets::delete,
        Right(AdminBuckets, Of::Bucket), Requests, OfRequest, Buckets, [];
    /// Make a token
    MAKE_TOKEN: POST "/auth/tokens" => auth::make,
        of_cluster(AdminAuth), Requests, OfRequest, Other, [];
    /// List the tokens
    TOKENS: GET "/auth/tokens" => auth::list, of_cluster(AdminAuth), Always, OfRequest, Other, [];
    /// Revoke a token
    REVOKE: DELETE "/auth/tokens/{id}" => auth::revoke,
        of_cluster(AdminAuth), Always, OfRequest, Other, [];
    /// What the token of the request allows
    WHOAMI: GET "/auth/whoami" => auth::whoami, Token, Always, OfRequest, Other, [];
    /// Show the layout and how evenly it spreads
    RING: GET "/ring" => ring::ring, of_cluster(Look), Always, OfRequest, Other, [];
    /// Show the home replicas of every partition
    PARTITIONS: GET "/ring/partitions" => ring::partitions, of_cluster(Look), Always, OfRequest, Other, [];
    /// Show where a key is stored
    RING_OF_KEY: GET "/ring/{bucket}/{key}" => ring::key, of_cluster(Look), Always, OfRequest, Other, [];
    /// Show the nodes as this one sees them
    CLUSTER: GET "/cluster" => ring::cluster, of_cluster(Look), Always, OfRequest, Other, [];
    /// Show the members and the change under way
    LAYOUT: GET "/layout" => layout::show, of_cluster(Look), Always, OfRequest, Other, [];
    /// What a change of the layout would come to
    PLAN: POST "/layout/plan" => layout::plan, of_cluster(Look), Requests, OfRequest, Other, [];
    /// Begin a change that was planned
    COMMIT: POST "/layout/commit" => layout::commit,
        of_cluster(AdminLayout), Requests, OfRequest, Other, [];
    /// Give up the change under way
    ABORT: POST "/layout/abort" => layout::abort,
        of_cluster(AdminLayout), Requests, OfRequest, Other, [];
    /// Let a leaving node go that is dead for good
    RELEASE: POST "/layout/release" => layout::release,
        of_cluster(AdminLayout), Requests, OfRequest, Other, [];
    /// List the last cluster records
    LAYOUT_HISTORY: GET "/layout/history" => layout::history,
        of_cluster(Look), Always, OfRequest, Other, ["limit"];
    /// Wait for a change of the layout
    LAYOUT_WAIT: GET "/layout/wait" => layout::wait,
        of_cluster(Look), Always, OfRequest, Other, ["epoch", "phase", "timeout_ms"];
    /// Show the comparison of replicas
    ANTI_ENTROPY: GET "/anti-entropy" => anti_entropy::show, of_cluster(Look), Always, OfRequest, Other, [];
    /// Compare replicas now
    COMPARE: POST "/anti-entropy/run" => anti_entropy::run,
        of_cluster(AdminRepair), Requests, Longest, Other, ["node", "partition", "timeout_ms"];
    /// Recompute the trees now
    SCRUB: POST "/anti-entropy/scrub" => anti_entropy::scrub,
        of_cluster(AdminRepair), Always, Longest, Other, ["partition", "timeout_ms"];
    /// Show what nodes have set aside or lost
    DISTRUSTED: GET "/distrusted" => distrusted::list,
        Right(Look, Of::EveryBucket), Always, OfRequest, Other, [];
    /// Accept it as current and serve it
    ACCEPT: POST "/distrusted/accept" => distrusted::accept,
        of_cluster(AdminRepair), Always, OfRequest, Other, [];
    /// Delete it for good
    DISCARD: POST "/distrusted/discard" => distrusted::discard,
        of_cluster(AdminRepair), Always, OfRequest, Other, [];
    /// List the backups of this node
    BACKUPS: GET "/backups" => backups::list,
        of_cluster(AdminBackup), Always, OfRequest, Other, [];
    /// Make a backup of this node
    MAKE_BACKUP: POST "/backups" => backups::make,
        of_cluster(AdminBackup), Requests, Longest, Other, [];
    /// Keep rows from leaving this node for a while
    HOLD: POST "/backups/hold" => backups::hold,
        of_cluster(AdminBackup), Always, OfRequest, Other, [];
    /// Show the manifest of a backup
    BACKUP: GET "/backups/{name}" => backups::show,
        of_cluster(AdminBackup), Always, OfRequest, Other, [];
    /// Delete a backup
    DELETE_BACKUP: DELETE "/backups/{name}" => backups::delete,
        of_cluster(AdminBackup), Always, OfRequest, Other, [];
    /// Fetch a file of a backup
    BACKUP_FILE: GET "/backups/{name}/files/{file}" => backups::file,
        of_cluster(AdminBackup), Always, OfRequest, Other, [];
    /// Show the hints this node keeps
    HINTS: GET "/hints" => hints::list, of_cluster(Look), Always, OfRequest, Other, [];
    /// Make a sync point over all hints
    MAKE_SYNC_POINT: POST "/hints/sync-points" => hints::make,
        of_cluster(Look), Requests, OfRequest, Other, [];
    /// Whether its hints are delivered
    SYNC_POINT: GET "/hints/sync-points/{id}" => hints::look,
        of_cluster(Look), Requests, AtOnce, Other, ["timeout_ms"];
    /// List kept traces of requests
    EXPLANATIONS: GET "/explain" => explain::list,
        Right(Look, Of::EveryBucket), Always, OfRequest, Other, ["slow", "limit"];
    /// What a request went through
    EXPLANATION: GET "/explain/{id}" => explain::show,
        Right(Look, Of::EveryBucket), Always, OfRequest, Other, [];
    /// Show the background jobs of this node
    JOBS: GET "/jobs" => jobs::list, of_cluster(Look), Always, OfRequest, Other, [];
    /// A live stream of what an operator watches
    EVENTS: GET "/events" => events::open, of_cluster(Look), Always, OfRequest, Other, [];
    /// Whether the process works
    LIVEZ: GET "/livez" => health::livez, Nothing, Always, OfRequest, Other, [];
    /// Whether the node takes requests
    READYZ: GET "/readyz" => health::readyz, Nothing, Always, OfRequest, Other, [];
    /// Metrics
    METRICS: GET "/metrics" => health::metrics,
        of_cluster(Metrics), Always, OfRequest, Other, [];
    /// This description
    DESCRIPTION: GET "/openapi.json" => description::show, Nothing, Always, OfRequest, Other, [];
    /// The console
    ROOT: GET "/" => console::page, Nothing, Always, OfRequest, Other, [];
    /// The console
    CONSOLE: GET "/console" => console::page, Nothing, Always, OfRequest, Other, [];
    /// A file of the console
    CONSOLE_FILE: GET "/console/{version}/{file}" => console::file,
        Nothing, Always, OfRequest, Other, [];
}

/// Whether a path is that of a key, valid or not: `/kv/` and something after it.
pub(super) fn is_key(uri: &Uri) -> bool {
    uri.path().strip_prefix(GET_KEY.prefix).is_some_and(|rest| !rest.is_empty())
}

/// What a node answers that was removed from the cluster: 503, but for what says so, and probes. What else it
/// knows is no longer so.
pub(super) fn turned_away(node: &Node, uri: &Uri) -> Option<Problem> {
    let answers = [&LAYOUT, &LIVEZ, &READYZ, &METRICS];
    let is_removed = !node.membership.is_member();
    let is_turned_away = is_removed && answers.iter().all(|route| route.path != uri.path());
    is_turned_away.then(|| Unavailable::Removed.into())
}

/// The router over all routes. Its answers carry their route as an extension.
pub(super) fn router(shared: Shared) -> Router {
    let mut router = Router::new();
    for route in TABLE.iter().copied() {
        let handler = move |State(shared): State<Shared>, mut request: Request| async move {
            let Some(arrival) = request.extensions_mut().remove::<Arrival>() else {
                return Problem::new(Kind::Internal, "the request has no arrival").into_response();
            };
            if std::ptr::eq(route, &BATCH) {
                let (shared, arrival) = (shared.clone(), arrival.clone());
                request.extensions_mut().insert(Within { shared, arrival });
            }
            let mut response = route.answer(&shared, &arrival, request, route.handler).await;
            response.extensions_mut().insert(route);
            response
        };
        router = router.route(&route.pattern(), on(route.filter, handler));
    }
    router
        .fallback(no_such_route)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(shared)
}

async fn no_such_route(request: Request) -> Problem {
    let mut paths: Vec<&str> = TABLE.iter().map(|route| route.path).collect();
    paths.dedup(); // the methods of a path stand together
    let detail = format!(
        "the routes are {}; {} is none of them",
        paths.join(", "),
        problem::echo(request.uri().path())
    );
    Problem::new(Kind::NoSuchRoute, detail)
}

/// The router adds the `Allow` header.
async fn method_not_allowed(request: Request) -> Problem {
    let detail =
        format!("{} is not one of the methods in Allow", problem::echo(request.method().as_str()));
    Problem::new(Kind::MethodNotAllowed, detail)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use serde_json::Value;

    use super::*;

    /// Path and method.
    type Operations = BTreeMap<(String, String), (String, BTreeSet<String>)>;

    fn described() -> Operations {
        let description: Value = serde_json::from_str(description::DESCRIPTION).unwrap();
        let mut operations = Operations::new();
        for (path, methods) in description["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                let references = operation["parameters"].as_array().into_iter().flatten();
                let parameters = references
                    .map(|it| description.pointer(&it["$ref"].as_str().unwrap()[1..]).unwrap())
                    .filter(|parameter| parameter["in"] == "query")
                    .map(|parameter| parameter["name"].as_str().unwrap().to_owned());
                let summary = operation["summary"].as_str().unwrap().to_owned();
                let place = (path.clone(), method.to_uppercase());
                operations.insert(place, (summary, parameters.collect()));
            }
        }
        // Whatever takes GET takes HEAD; it is described where it means something of its own.
        operations.retain(|(_, method), _| method != "HEAD");
        operations
    }

    #[test]
    fn the_description_has_exactly_these_routes() {
        let mut table = Operations::new();
        for route in TABLE {
            let (method, summary) = route.described;
            let parameters = route.parameters.iter().map(|name| (*name).to_owned()).collect();
            let told = (summary.trim().to_owned(), parameters);
            let doubled = table.insert((route.path.to_owned(), method.to_owned()), told);
            assert!(doubled.is_none(), "{method} {} is in the table twice", route.path);
        }
        assert_eq!(table, described());
    }

    #[test]
    fn the_methods_of_a_path_stand_together() {
        let mut paths: Vec<&str> = TABLE.iter().map(|route| route.path).collect();
        paths.dedup();
        let different: BTreeSet<&str> = paths.iter().copied().collect();
        assert_eq!(paths.len(), different.len());
    }

    #[test]
    fn the_way_past_the_router_is_that_of_keys() {
        let of_keys: Vec<_> = TABLE.iter().filter(|it| it.path == "/kv/{bucket}/{key}").collect();
        let direct = [&GET_KEY, &PUT_KEY, &DELETE_KEY];
        assert_eq!(of_keys.len(), direct.len());
        for (one, other) in of_keys.into_iter().zip(direct) {
            assert!(std::ptr::eq(*one, other) && other.prefix == "/kv/");
        }
    }

    #[test]
    fn what_changes_data_is_no_reading() {
        for route in TABLE {
            let is_one = |of: &[&Route]| of.iter().any(|it| std::ptr::eq(*route, *it));
            let reads = matches!(route.needs.action(), None | Some(Read | List | Look | Metrics));
            let is_get = route.filter == MethodFilter::GET;
            // What a batch may do is asked for each of its operations.
            let only_tells = is_one(&[&MAKE_SYNC_POINT, &PLAN, &BATCH]);
            // Who has tokens, and what all keys hold, is not for everyone who looks.
            let is_get = is_get && !is_one(&[&TOKENS, &BACKUPS, &BACKUP, &BACKUP_FILE]);
            assert_eq!(reads, is_get || only_tells, "{}", route.path);
        }
    }

    /// What shows keys asks for the keys: nobody sees them who may only look at the cluster.
    #[test]
    fn a_path_with_a_bucket_asks_for_that_bucket() {
        for route in TABLE {
            let of = match route.needs {
                Nothing | Token => continue,
                Right(_, of) => of,
            };
            let names_key = route.path.ends_with("/{bucket}/{key}");
            let names_bucket =
                ["/{bucket}", "/{bucket}/{index}"].map(|it| route.path.ends_with(it));
            let names_bucket = names_bucket.contains(&true);
            // They say where keys are, and what buckets are like, whether there are any or not.
            let is_of_layout = ["/ring/{bucket}/{key}", "/buckets/{bucket}"].contains(&route.path);
            if is_of_layout && of == Of::Cluster {
                continue;
            }
            assert_eq!(names_key, of == Of::Key, "{}", route.path);
            assert_eq!(names_bucket, matches!(of, Of::Bucket | Of::Listing), "{}", route.path);
        }
    }
}
