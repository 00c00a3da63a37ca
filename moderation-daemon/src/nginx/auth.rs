//! `GET /v1/nginx/auth`: may this request pass? And `GET /v1/nginx/denial`: what is said
//! to whoever may not. nginx takes no other answer than 204 and 403 to the first; the
//! real status, and all that the second needs, are in headers of it.
//!
//! Who is banned is denied from the board, which waits for nothing. Everybody else waits
//! for a decision no longer than [`PATIENCE`], and so many at a time; beyond, nothing is
//! decided, which is counted, and `nginx.when_overloaded` says what becomes of it.

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use tokio::{sync::Semaphore, time::timeout};

use super::{
    denial::{self, Denial},
    generation::{Part, keeper::Places},
    log::{Awaited, GENERATION, pending::RequestName},
    page::Page,
    route::{Follows, Takes},
    snippet,
    token::Tokens,
};
use crate::{
    api::{self, Operation, Paths, Routes, Shortcut, input::request_id},
    clock,
    config::{Nginx, Overload, UserSource},
    engine::{Act, Bearer, Cost, Count, EventType, Moment, Request, Subject, UserId},
    moderator::{Answer, BanView, Denied, Grounds, Unavailable},
};

/// How long nginx is kept waiting for a decision. It gives up a second later.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the two routes work with.
struct Desk {
    api: api::Context,
    settings: Nginx,
    user: User,
    page: Page,
    /// Places for those who wait for a decision.
    waiting: Semaphore,
    /// Requests whose end is to be told, if that matters.
    awaited: Option<Arc<Awaited>>,
    snippet: snippet::Watch,
}

enum User {
    Nowhere,
    Token(Tokens),
    Header,
}

/// The routes of nginx's socket.
///
/// # Errors
///
/// If the secret of tokens is not there, or the operator's page cannot be used.
pub fn routes(
    settings: Nginx,
    context: &api::Context,
    awaited: Option<Arc<Awaited>>,
) -> anyhow::Result<Routes> {
    let user = match &settings.user {
        UserSource::Nowhere => User::Nowhere,
        UserSource::Header => User::Header,
        UserSource::Token(claim) => {
            User::Token(Tokens::new(settings.jwt_secret()?.expose().as_bytes(), claim))
        }
    };
    let page = Page::load(settings.page.as_deref(), &settings.contest)?;
    // The other half of the connections is for those who need not wait.
    let waiting = Semaphore::new((settings.socket.max_connections / 2).max(1));
    let snippet = snippet::Watch::default();
    let desk =
        Arc::new(Desk { api: context.clone(), settings, user, page, waiting, awaited, snippet });
    let [ask, say] = operations();
    let asked = Arc::clone(&desk);
    let answer = move |headers: HeaderMap| {
        let desk = Arc::clone(&asked);
        async move { auth(&desk, &headers).await }
    };
    let tell = move |headers: HeaderMap| std::future::ready(denied(&desk, &headers));
    let shortcut = Shortcut::get(ASK, answer.clone());
    let paths = Paths::new().on(ask, answer).on(say, tell);
    Ok(api::routes(shortcut, paths, context.clone()))
}

/// What can be asked on nginx's socket.
pub(crate) fn described() -> Paths {
    Paths::described(operations().into())
}

fn operations() -> [Operation; 2] {
    let ask = Operation::get(ASK, "May this request pass? 204 says yes, 403 no")
        .headers(&[
            (METHOD, "The request's method."),
            (TARGET, "Its target, as it came."),
            (ADDRESS, "The client's address, as nginx takes it."),
            (AGENT, "The client's User-Agent."),
            (USER, "The user, with `nginx.user.from: header`."),
            (REQUEST, "nginx's name for the request."),
            (snippet::HEADER, "Which version of the snippet asks."),
            ("authorization", "The token, with `nginx.user.from: token`."),
        ])
        .status(StatusCode::NO_CONTENT)
        .answer_headers(&[
            ("ratelimit", "How limits stand."),
            ("ratelimit-policy", "What the limits are."),
            (LOG, "1: what becomes of the request is to be logged."),
        ]);
    let say = Operation::get("/v1/nginx/denial", "What is said to whoever was denied").headers(&[
        (DENIAL, "The header of that name of the answer 403."),
        (REQUEST, "nginx's name for the request."),
        ("accept", "Whether it is to be a page."),
    ]);
    [ask, say]
}

/// What nginx asks before each request.
const ASK: &str = "/v1/nginx/auth";

/// What the snippet tells.
const METHOD: &str = "x-moderation-method";
const TARGET: &str = "x-moderation-uri";
const ADDRESS: &str = "x-moderation-address";
const AGENT: &str = "x-moderation-agent";
const USER: &str = "x-moderation-user";
const REQUEST: &str = "x-moderation-request-id";
/// What it is told, and tells again when it asks what to say.
const DENIAL: &str = "x-moderation-denial";
/// Whether it is to log what becomes of the request.
const LOG: &str = "x-moderation-log";

/// A header's value; nginx leaves out those that are empty.
fn value<'a>(headers: &'a HeaderMap, name: &str) -> &'a [u8] {
    headers.get(name).map(HeaderValue::as_bytes).unwrap_or_default()
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    str::from_utf8(value(headers, name)).unwrap_or_default()
}

/// What was found out: what limits said, and the denial if it is one.
#[derive(Default)]
struct Verdict {
    counts: Vec<Count>,
    /// Whether its end is to be told.
    is_awaited: bool,
    denial: Option<Denial>,
}

async fn auth(desk: &Desk, headers: &HeaderMap) -> Response {
    desk.snippet.look(text(headers, snippet::HEADER), &desk.api.metrics.nginx);
    let now = clock::now();
    let metrics = &desk.api.metrics.nginx;
    let verdict = match desk.subject(headers, now) {
        Some(subject) => desk.judge(subject, headers).await,
        None => {
            metrics.unknown.inc();
            Verdict::default()
        }
    };
    let counter = if verdict.denial.is_some() { &metrics.denied } else { &metrics.passed };
    counter.inc();
    respond(&verdict, clock::now(), desk)
}

impl Desk {
    /// Whom a request concerns, as far as is known.
    fn subject(&self, headers: &HeaderMap, now: Moment) -> Option<Subject> {
        // A socket's peer has no address; nginx says `unix:` then.
        let address = text(headers, ADDRESS).parse::<IpAddr>().ok();
        Subject::new(self.user(headers, now), address).ok()
    }

    fn user(&self, headers: &HeaderMap, now: Moment) -> Option<UserId> {
        match &self.user {
            User::Nowhere => None,
            User::Header => text(headers, USER).parse().ok(),
            User::Token(tokens) => {
                let authorization = value(headers, header::AUTHORIZATION.as_str());
                tokens.user(authorization, now.unix_ms).unwrap_or_else(|why| {
                    self.api.metrics.nginx.refused(why);
                    None
                })
            }
        }
    }

    /// Judges a request, or says that there was no time for that.
    async fn judge(&self, subject: Subject, headers: &HeaderMap) -> Verdict {
        match timeout(PATIENCE, self.consider(&subject, headers)).await {
            Ok(verdict) => verdict,
            Err(_) => {
                self.api.metrics.nginx.undecided(Unavailable::TimedOut.name());
                // Whether a role spares somebody is not known in time, so it does not.
                let now = clock::now();
                let ban = self.api.moderator.board().check(&subject, now);
                let denial = ban.map(|ban| self.banned(&ban, &subject, now));
                let denial = denial.or_else(|| self.overloaded(&subject));
                Verdict { denial, ..Verdict::default() }
            }
        }
    }

    async fn consider(&self, subject: &Subject, headers: &HeaderMap) -> Verdict {
        let id = text(headers, REQUEST);
        let target = value(headers, TARGET);
        let found = self.settings.routes.find(text(headers, METHOD), target);
        let mut verdict = Verdict::default();
        if found.events.is_empty() && found.takes.is_none() {
            verdict.denial = self.check(subject).await;
            if verdict.denial.is_some() {
                return verdict;
            }
        }
        // More than one where a path can be read as several things: it is all of them.
        for kind in found.events.iter().copied() {
            let answer = self.decide(kind, subject, headers).await;
            if let Ok(answer) = &answer {
                verdict.counts.extend(answer.outcome.counts.iter().copied());
            }
            verdict.denial = self.denial(answer, subject).await.err().map(|it| *it);
            if verdict.denial.is_some() {
                return verdict;
            }
        }
        let Some(awaited) = &self.awaited else { return verdict };
        match self.part(&awaited.places, found.takes, found.follows, subject, id).await {
            Ok(part) => verdict.is_awaited = awaited.note(id, subject, &found.events, part),
            Err(denial) => verdict.denial = Some(*denial),
        }
        verdict
    }

    /// What the request has to do with a generation; or the denial, if there is no place
    /// for one more.
    async fn part(
        &self,
        places: &Places,
        takes: Option<Takes>,
        follows: Option<Follows>,
        subject: &Subject,
        id: &str,
    ) -> Result<Option<Part>, Box<Denial>> {
        let rules = &self.api.config.rules;
        let (Some(limit), Some(name)) = (rules.concurrency, RequestName::parse(id)) else {
            return Ok(None);
        };
        let bearer = rules.bearer(subject);
        let Some(takes) = takes else {
            return Ok(follows.map(|follows| match follows {
                Follows::Stream(stream) => places.watch(&bearer, stream, name),
                Follows::Abort => places.abort(),
            }));
        };
        places.await_room(&bearer, limit.max).await;
        let answer = self.acquire(&bearer, subject, id).await;
        let answer = self.denial(answer, subject).await?;
        let lease = answer.and_then(|answer| answer.outcome.lease);
        Ok(lease.map(|lease| match takes {
            Takes::Start => places.start(&bearer, lease.id),
            Takes::Whole => places.start_whole(&bearer, lease.id),
        }))
    }

    /// The answer, if it lets the request pass; `None` if there is none and it passes all
    /// the same. Else the denial.
    async fn denial(
        &self,
        answer: Result<Answer, &'static str>,
        subject: &Subject,
    ) -> Result<Option<Answer>, Box<Denial>> {
        let denial = match &answer {
            Ok(answer) => Denial::of(answer, &self.api.config.rules, clock::now()),
            Err(reason) => {
                self.api.metrics.nginx.undecided(reason);
                self.check(subject).await.or_else(|| self.overloaded(subject))
            }
        };
        denial.map_or_else(|| Ok(answer.ok()), |denial| Err(Box::new(denial)))
    }

    fn overloaded(&self, subject: &Subject) -> Option<Denial> {
        (self.settings.when_overloaded == Overload::Deny).then(|| {
            let code = self.code(subject, Grounds::overloaded(), clock::now());
            Denial::overloaded(&code)
        })
    }

    fn banned(&self, ban: &BanView, subject: &Subject, now: Moment) -> Denial {
        Denial::banned(ban, now, self.code(subject, Grounds::banned(ban), now))
    }

    /// What to quote to operators of a denial that is no answer to an event.
    fn code(&self, subject: &Subject, grounds: Grounds, now: Moment) -> String {
        let denials = self.api.moderator.board().denials();
        denials.note(Denied::Request, subject, grounds, now.unix_ms).to_string()
    }

    /// Whether somebody is banned.
    async fn check(&self, subject: &Subject) -> Option<Denial> {
        let ban = self.api.moderator.check(subject).await;
        ban.map(|ban| self.banned(&ban, subject, clock::now()))
    }

    /// Judges an event, or says in one word why that was not possible. Who is banned is
    /// answered without waiting.
    async fn decide(
        &self,
        kind: EventType,
        subject: &Subject,
        headers: &HeaderMap,
    ) -> Result<Answer, &'static str> {
        let rules = &self.api.config.rules;
        // nginx asks again about a request that it redirects internally.
        let id = request_id(kind.name(), &rules.bearer(subject), text(headers, REQUEST)).ok();
        let agent = String::from_utf8_lossy(value(headers, AGENT)).into_owned();
        let act = Act::Event { kind, user_agent: Some(agent), cost: Cost::default() };
        self.ask(Request { id, ..Request::new(act, subject.clone()) }).await
    }

    /// Takes a place for a generation, once for one request.
    async fn acquire(
        &self,
        bearer: &Bearer,
        subject: &Subject,
        id: &str,
    ) -> Result<Answer, &'static str> {
        let id = request_id(GENERATION, bearer, id).ok();
        self.ask(Request { id, ..Request::new(Act::Acquire, subject.clone()) }).await
    }

    async fn ask(&self, request: Request) -> Result<Answer, &'static str> {
        let Ok(_place) = self.waiting.try_acquire() else { return Err("crowded") };
        self.api.moderator.judge(request).await.map_err(Unavailable::name)
    }
}

fn respond(verdict: &Verdict, now: Moment, desk: &Desk) -> Response {
    let mut headers = HeaderMap::new();
    let rules = &desk.api.config.rules;
    let policy = |count: &Count| {
        let window_ms = rules.limiter(count.limiter).map_or(0, |rule| rule.limit.window_ms);
        format!("\"{}\";q={};w={}", count.limiter, count.max, window_ms.div_ceil(1_000))
    };
    let standing = |count: &Count| {
        let reset = denial::seconds(count, now);
        format!("\"{}\";r={};t={reset}", count.limiter, count.remaining())
    };
    put(&mut headers, "ratelimit-policy", &joined(&verdict.counts, policy));
    put(&mut headers, "ratelimit", &joined(&verdict.counts, standing));
    if verdict.is_awaited {
        put(&mut headers, LOG, "1");
    }
    let Some(denial) = &verdict.denial else {
        return (StatusCode::NO_CONTENT, headers).into_response();
    };
    put(&mut headers, "x-moderation-status", &denial.status.to_string());
    put(&mut headers, "x-moderation-reason", &denial.r#type);
    put(&mut headers, "x-moderation-until", denial.until.as_deref().unwrap_or_default());
    let wait = denial.retry_after.map(|seconds| seconds.to_string()).unwrap_or_default();
    put(&mut headers, "x-moderation-retry-after", &wait);
    put(&mut headers, "x-moderation-decision", &denial.code);
    put(&mut headers, DENIAL, &serde_json::json!(denial).to_string());
    (StatusCode::FORBIDDEN, headers).into_response()
}

fn joined(counts: &[Count], shown: impl Fn(&Count) -> String) -> String {
    counts.iter().map(shown).collect::<Vec<_>>().join(", ")
}

/// Puts a header that is not empty.
fn put(headers: &mut HeaderMap, name: &'static str, text: &str) {
    // JSON escapes every other character that is none of a header's.
    let text = text.replace('\u{7f}', "\\u007f");
    if let Ok(value) = HeaderValue::from_bytes(text.as_bytes())
        && !value.is_empty()
    {
        headers.insert(HeaderName::from_static(name), value);
    }
}

/// Sent with what nobody may keep.
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

fn denied(desk: &Desk, headers: &HeaderMap) -> Response {
    let told = serde_json::from_slice::<Denial>(value(headers, DENIAL)).ok();
    let denial = told.unwrap_or_else(|| Denial::forbidden(text(headers, REQUEST)));
    let (kind, body) = if wants_page(headers) {
        ("text/html; charset=utf-8", desk.page.render(&denial))
    } else {
        ("application/json", denial.json().to_string())
    };
    let status = StatusCode::from_u16(denial.status).unwrap_or(StatusCode::FORBIDDEN);
    let mut response = (status, body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, NO_STORE);
    headers.insert(header::VARY, HeaderValue::from_static("accept"));
    if let Some(seconds) = denial.retry_after {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

/// Browsers say so when somebody goes somewhere; scripts of a page and programs do not.
fn wants_page(headers: &HeaderMap) -> bool {
    text(headers, header::ACCEPT.as_str()).to_ascii_lowercase().contains("text/html")
}
