//! What a connection is served by. What is asked most on a socket (single events by an
//! app, whether a request may pass by nginx) goes past the router and its layers; all else
//! goes through them. Either way the same questions get the same answers.

use std::{convert::Infallible, fmt, pin::Pin, sync::Arc};

use axum::{
    Router,
    body::{Body, Bytes},
    response::IntoResponse as _,
};
use http_body_util::{Either, Full};
use hyper::{
    Method, Request, Response,
    body::Incoming,
    header::{CONNECTION, CONTENT_TYPE, HeaderMap, HeaderValue},
    service::Service,
};
use hyper_util::service::TowerToHyperService;

use super::{
    Context, MAX_BODY_BYTES, Problem, Stop,
    event::EventBody,
    input::{body, parse},
    view,
};

/// Where an app asks about single events.
pub(super) const EVENTS: &str = "/v1/events";

/// All that can be asked on one socket.
#[derive(Clone, Debug)]
pub struct Routes {
    /// For what is asked most on this socket, if it has that.
    pub(super) shortcut: Option<Shortcut>,
    /// For all else, and for the shortcut's path with another method.
    pub(super) others: Router,
}

/// One question that is answered without being looked up.
#[derive(Clone)]
pub(crate) struct Shortcut {
    method: Method,
    path: &'static str,
    answer: Arc<dyn Fn(Request<Incoming>) -> Answering + Send + Sync>,
}

impl fmt::Debug for Shortcut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Shortcut").field(&self.method).field(&self.path).finish()
    }
}

/// The same for one connection.
pub(super) struct Desk {
    shortcut: Option<Shortcut>,
    others: TowerToHyperService<Router>,
    stop: Stop,
}

type Answer = Response<Either<Full<Bytes>, Body>>;
type Answering = Pin<Box<dyn Future<Output = Answer> + Send>>;

impl Shortcut {
    /// For an app's single events.
    pub(super) fn events(context: Context) -> Self {
        let context = Arc::new(context);
        let answer = move |request: Request<Incoming>| -> Answering {
            let context = Arc::clone(&context);
            Box::pin(async move { answer(&context, request.into_body()).await })
        };
        Self { method: Method::POST, path: EVENTS, answer: Arc::new(answer) }
    }

    /// For a question that is all in its headers, and whose answer is never a [`Problem`]:
    /// the router would count that.
    pub(crate) fn get<F>(
        path: &'static str,
        answer: impl Fn(HeaderMap) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let answer = move |request: Request<Incoming>| -> Answering {
            let answering = answer(request.into_parts().0.headers);
            Box::pin(async move { answering.await.map(Either::Right) })
        };
        Self { method: Method::GET, path, answer: Arc::new(answer) }
    }

    fn is_asked(&self, request: &Request<Incoming>) -> bool {
        request.method() == self.method && request.uri().path() == self.path
    }
}

impl Desk {
    pub(super) fn new(shortcut: Option<Shortcut>, others: Router, stop: Stop) -> Self {
        Self { shortcut, others: TowerToHyperService::new(others), stop }
    }
}

impl Service<Request<Incoming>> for Desk {
    type Response = Answer;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        if let Some(shortcut) = self.shortcut.as_ref().filter(|it| it.is_asked(&request)) {
            let (answering, stop) = ((shortcut.answer)(request), self.stop.clone());
            return Box::pin(async move { Ok(last(answering.await, &stop)) });
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
