//! `GET /v1/config`: the configuration that the daemon runs with, and where each
//! value came from. For operators; what is in it is made when it is loaded.

use axum::extract::State;

use super::{
    Context,
    paths::{Operation, Paths},
};
use crate::config::Effective;

pub(super) fn routes() -> Paths {
    let shown = Operation::get("/v1/config", "The configuration, and where values came from");
    Paths::new().on(shown.answers::<Effective>(), config)
}

async fn config(State(context): State<Context>) -> axum::Json<Effective> {
    axum::Json(context.config.effective.as_ref().clone())
}
