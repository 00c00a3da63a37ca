//! The socket API: HTTP/1.1 and JSON over two Unix sockets, one for the app,
//! one for operators. It parses once, asks the moderator, and puts the answer
//! into words; it decides nothing.

mod admin;
mod app;
mod batch;
pub mod client;
mod doctor;
mod effective;
mod event;
mod explain;
mod hot;
mod import;
pub(crate) mod input;
mod kernel;
mod librechat;
mod limits;
mod paths;
pub(crate) mod peer;
mod penalty;
mod problem;
pub(crate) mod said;
mod scrape;
mod socket;
mod subjects;
pub(crate) mod view;
mod words;

use std::{sync::Arc, time::Duration};

use axum::Router;

use crate::{
    config::Config, feed::Watch, metrics::Metrics, moderator::Moderator, network::Pins,
    sharers::SharingStatus, store::Reader,
};

pub(crate) use paths::{Operation, Paths};

pub use hot::Routes;
pub(crate) use hot::Shortcut;
pub use problem::Problem;
pub use scrape::Scrape;
pub(crate) use socket::turn_away;
pub use socket::{Listener, Stop};

/// Bytes of a request's body. An event is a few hundred; a `User-Agent` can be
/// as long as nginx lets a header be.
const MAX_BODY_BYTES: usize = 64 * 1_024;
/// How long a client may take over a request's head, and idle between two.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take over a request's body.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a client may leave an answer unread.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// What the routes work with.
#[derive(Clone, Debug)]
pub struct Context {
    /// Decides.
    pub moderator: Moderator,
    /// Lists past bans.
    pub reader: Reader,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// For what the status says.
    pub config: Arc<Config>,
    /// Where the kernel's counters are, unless nothing is dropped there.
    pub pins: Option<Pins>,
    /// Dropped packets, for those who watch.
    pub watch: Arc<Watch>,
    /// How sharing bans stands.
    #[cfg_attr(
        not(feature = "mongodb"),
        expect(dead_code, reason = "there is nothing to tell without the feature")
    )]
    pub(crate) sharing: SharingStatus,
    /// For the doctor alone, who must not be in the way of decisions.
    #[cfg(feature = "redis")]
    pub(crate) redis: Option<Arc<crate::store::redis::Redis>>,
    /// When the daemon started, on the boot clock.
    pub started_at_boot_ms: u64,
}

/// The routes of the app's socket.
pub fn app_routes(context: Context) -> Routes {
    let shortcut = Some(Shortcut::events(context.clone()));
    Routes { shortcut, others: finish(app_paths(), context) }
}

fn app_paths() -> Paths {
    let event = Operation::post(hot::EVENTS, "Whether a user may do something; it counts");
    let event = event.body::<event::EventBody<'_>>().answers::<view::AnswerView<'_>>();
    app::routes()
        // The router has the path only to say that it takes no other method.
        .on(event, async || Problem::NotFound)
        .merge(batch::routes())
        .merge(limits::routes())
        .merge(subjects::routes())
        .merge(app::common())
}

/// The routes of the operators' socket.
pub fn admin_routes(context: Context) -> Routes {
    Routes { shortcut: None, others: finish(admin_paths(), context) }
}

fn admin_paths() -> Paths {
    admin::routes()
        .merge(import::routes())
        .merge(effective::routes())
        .merge(explain::routes())
        .merge(librechat::routes())
        .merge(penalty::routes())
        .merge(doctor::routes())
        .merge(app::common())
}

/// All that can be asked on the sockets, as an OpenAPI 3.1 document.
pub fn description() -> serde_json::Value {
    paths::document(vec![
        ("app", "The application's socket, `api.path`.", app_paths()),
        ("admin", "The operators' socket, `admin.path`.", admin_paths()),
        (
            "nginx",
            "nginx's socket, `nginx.socket`.",
            crate::nginx::described().merge(app::common()),
        ),
    ])
}

/// The routes of a socket that is another room's, of which one is asked most.
pub(crate) fn routes(shortcut: Shortcut, paths: Paths, context: Context) -> Routes {
    Routes { shortcut: Some(shortcut), others: finish(paths.merge(app::common()), context) }
}

fn finish(paths: Paths, context: Context) -> Router {
    let metrics = Arc::clone(&context.metrics);
    paths
        .router()
        .fallback(async || Problem::NotFound)
        .method_not_allowed_fallback(async || Problem::MethodNotAllowed)
        .layer(axum::middleware::map_response(move |response| {
            std::future::ready(problem::count(&metrics, response))
        }))
        .with_state(context)
}
