//! The socket API: HTTP/1.1 and JSON over two Unix sockets, one for the app,
//! one for operators. It parses once, asks the moderator, and puts the answer
//! into words; it decides nothing.

mod admin;
mod app;
pub mod client;
mod effective;
mod import;
mod input;
mod kernel;
mod peer;
mod problem;
mod socket;
pub(crate) mod view;

use std::{sync::Arc, time::Duration};

use axum::{Router, routing::get};

use crate::{
    config::Config, feed::Watch, metrics::Metrics, moderator::Moderator, network::Pins,
    store::Reader,
};

pub use problem::Problem;
pub use socket::{ListenError, Listener};

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
    /// When the daemon started, on the boot clock.
    pub started_at_boot_ms: u64,
}

/// The routes of the app's socket.
pub fn app_routes(context: Context) -> Router {
    finish(app::routes(), context)
}

/// The routes of the operators' socket.
pub fn admin_routes(context: Context) -> Router {
    finish(admin::routes().merge(import::routes()).merge(effective::routes()), context)
}

fn finish(routes: Router<Context>, context: Context) -> Router {
    let metrics = Arc::clone(&context.metrics);
    routes
        .route("/healthz", get(app::healthz))
        .route("/readyz", get(app::readyz))
        .route("/v1/check", get(app::check))
        .fallback(async || Problem::NotFound)
        .method_not_allowed_fallback(async || Problem::MethodNotAllowed)
        .layer(axum::middleware::map_response(move |response| {
            std::future::ready(problem::count(&metrics, response))
        }))
        .with_state(context)
}
