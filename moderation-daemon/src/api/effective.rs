//! `GET /v1/config`: the configuration that the daemon runs with, and where each
//! value came from. For operators; what is in it is made when it is loaded.

use axum::{Router, extract::State, routing::get};

use super::Context;
use crate::config::Effective;

pub(super) fn routes() -> Router<Context> {
    Router::new().route("/v1/config", get(config))
}

async fn config(State(context): State<Context>) -> axum::Json<Effective> {
    axum::Json(context.config.effective.as_ref().clone())
}
