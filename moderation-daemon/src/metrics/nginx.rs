//! What is counted about nginx, which asks before it passes a request on.

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::ReasonLabels;
use crate::nginx::{generation::End, token::Refused};

/// See the module.
#[derive(Debug, Default)]
pub struct NginxMetrics {
    /// Requests that passed.
    pub passed: Counter,
    /// Requests that were denied.
    pub denied: Counter,
    /// Requests that name neither a user nor an address, and pass.
    pub unknown: Counter,
    /// Generations that have a place.
    pub generations: Gauge,
    /// Places that were gone when they were to be renewed.
    pub generations_lapsed: Counter,
    generations_ended: Family<ReasonLabels, Counter>,
    /// The version of nginx's snippet, of whoever asked last.
    pub snippet: Gauge,
    undecided: Family<ReasonLabels, Counter>,
    tokens_refused: Family<ReasonLabels, Counter>,
}

impl NginxMetrics {
    #[rustfmt::skip]
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("nginx_passed", "Requests of which nginx asked and that passed", self.passed.clone());
        registry.register("nginx_denied", "Requests of which nginx asked and that were denied", self.denied.clone());
        registry.register("nginx_unknown", "Requests of which nginx told neither a user nor an address; they pass", self.unknown.clone());
        registry.register("nginx_undecided", "Requests of which nginx asked and nothing was decided, by reason; nginx.when_overloaded says what becomes of them", self.undecided.clone());
        registry.register("nginx_snippet_version", "The version of nginx's snippet, of whoever asked last; 0: it does not say, or nobody has asked", self.snippet.clone());
        registry.register("nginx_generations", "Generations that have a place", self.generations.clone());
        registry.register("nginx_generations_lapsed", "Places of generations that were gone when they were to be renewed", self.generations_lapsed.clone());
        registry.register("nginx_generations_ended", "Places of generations that were given back, by reason: ended, refused, aborted, silent", self.generations_ended.clone());
        registry.register("nginx_tokens_refused", "Tokens that are nobody's, by reason", self.tokens_refused.clone());
    }

    /// How often nginx has asked.
    pub fn asked(&self) -> u64 {
        self.passed.get() + self.denied.get() + self.unknown.get()
    }

    /// Nothing was decided.
    pub fn undecided(&self, reason: &'static str) {
        self.undecided.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// A place was given back.
    pub fn generation_ended(&self, why: End) {
        self.generations_ended.get_or_create(&ReasonLabels { reason: why.name() }).inc();
    }

    /// A token was nobody's.
    pub fn refused(&self, why: Refused) {
        self.tokens_refused.get_or_create(&ReasonLabels { reason: why.name() }).inc();
    }
}
