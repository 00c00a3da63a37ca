//! What a connection is served by. Single events, which are most of what an app
//! asks, go past the router and its layers; all else goes through them. Either
//! way the same questions get the same answers.

use std::{convert::Infallible, pin::Pin, sync::Arc};

use axum::{
    Router,
    body::{Body, Bytes},
    response::IntoResponse as _,
};
use http_body_util::{Either, Full};
use hyper::{
    Method, Request, Response,
    body::Incoming,
    header::{CONNECTION, CONTENT_TYPE, HeaderValue},
    service::Service,
};
use hyper_util::service::TowerToHyperService;

use super::{
    Context, MAX_BODY_BYTES, Problem, Stop,
    event::EventBody,
    input::{body, parse},
    view,
};

/// The path that is not looked up.
pub(super) const EVENTS: &str = "/v1/events";

/// All that can be asked on one socket.
#[derive(Clone, Debug)]
pub struct Routes {
    /// For single events, if there are any on this socket.
    pub(super) events: Option<Arc<Context>>,
    /// For all else, and for events with another method.
    pub(super) others: Router,
}

/// The same for one connection.
pub(super) struct Desk {
    events: Option<Arc<Context>>,
    others: TowerToHyperService<Router>,
    stop: Stop,
}

type Answer = Response<Either<Full<Bytes>, Body>>;

impl Desk {
    pub(super) fn new(events: Option<Arc<Context>>, others: Router, stop: Stop) -> Self {
        Self { events, others: TowerToHyperService::new(others), stop }
    }
}

impl Service<Request<Incoming>> for Desk {
    type Response = Answer;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let is_event = request.method() == Method::POST && request.uri().path() == EVENTS;
        if let Some(context) = self.events.as_ref().filter(|_| is_event) {
            let (context, stop) = (Arc::clone(context), self.stop.clone());
            return Box::pin(async move {
                Ok(last(answer(&context, request.into_body()).await, &stop))
            });
        }
        let (answer, stop) = (self.others.call(request), self.stop.clone());
        Box::pin(async move { Ok(last(answer.await?.map(Either::Right), &stop)) })
    }
}

/// Says in the answer that there will be no other on this connection, if the daemon
/// stops: whoever asks often hears so before the connection closes.
fn last(mut answer: Answer, stop: &Stop) -> Answer {
    if stop.is_asked() {
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

async fn answer(context: &Context, body: Incoming) -> Answer {
    match event(context, body).await {
        Ok(json) => {
            let mut answer = Response::new(Either::Left(Full::from(json)));
            answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            answer
        }
        Err(problem) => {
            context.metrics.problem(problem.name());
            problem.into_response().map(Either::Right)
        }
    }
}

async fn event(context: &Context, from: Incoming) -> Result<Vec<u8>, Problem> {
    let bytes = body(from, MAX_BODY_BYTES).await?;
    let ask = parse::<EventBody<'_>>(&bytes)?.ask(&context.config.rules)?;
    let answer = context.moderator.judge(ask).await?;
    Ok(view::written(&answer, &context.config.rules))
}
