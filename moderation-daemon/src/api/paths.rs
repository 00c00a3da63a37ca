//! Routes and what they are, in one: no route can be added without its
//! description, and from all of them comes the OpenAPI document. What is asked and
//! answered is described by the types that are read and written, not once more.

use axum::{
    Router,
    handler::Handler,
    http::{Method, StatusCode},
    routing::{MethodFilter, on},
};
use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::{Context, problem::ProblemJson};

/// What comes with every answer that is none.
const PROBLEM: &str = "application/problem+json";
const JSON: &str = "application/json";
/// Lines of JSON.
pub(super) const LINES: &str = "application/x-ndjson";

/// Routes, each with its description.
pub(crate) struct Paths {
    router: Router<Context>,
    operations: Vec<Operation>,
}

/// One thing that can be asked.
pub(crate) struct Operation {
    method: Method,
    path: &'static str,
    summary: &'static str,
    headers: &'static [Header],
    query: Option<SchemaOf>,
    body: Option<Content>,
    status: StatusCode,
    answer: Option<Content>,
    answer_headers: &'static [Header],
}

/// A header by its name, and what it says.
pub(crate) type Header = (&'static str, &'static str);

type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// Of what form something is, by its media type.
struct Content(&'static str, SchemaOf);

impl Paths {
    pub(crate) fn new() -> Self {
        Self { router: Router::new(), operations: Vec::new() }
    }

    /// With another one.
    pub(crate) fn on<H, T>(mut self, operation: Operation, handler: H) -> Self
    where
        H: Handler<T, Context>,
        T: 'static,
    {
        let filter = MethodFilter::try_from(operation.method.clone()).expect("a usual method");
        self.router = self.router.route(operation.path, on(filter, handler));
        self.operations.push(operation);
        self
    }

    /// What describes another room's routes, which are made with what is known later.
    pub(crate) fn described(operations: Vec<Operation>) -> Self {
        Self { router: Router::new(), operations }
    }

    /// With those, too.
    pub(crate) fn merge(mut self, other: Self) -> Self {
        self.router = self.router.merge(other.router);
        self.operations.extend(other.operations);
        self
    }

    /// What serves them.
    pub(super) fn router(self) -> Router<Context> {
        self.router
    }
}

impl Operation {
    const fn new(method: Method, path: &'static str, summary: &'static str) -> Self {
        let status = StatusCode::OK;
        let (headers, answer_headers): (&[Header], &[Header]) = (&[], &[]);
        let (query, body, answer) = (None, None, None);
        Self { method, path, summary, headers, query, body, status, answer, answer_headers }
    }

    pub(crate) const fn get(path: &'static str, summary: &'static str) -> Self {
        Self::new(Method::GET, path, summary)
    }

    pub(super) const fn post(path: &'static str, summary: &'static str) -> Self {
        Self::new(Method::POST, path, summary)
    }

    pub(super) const fn put(path: &'static str, summary: &'static str) -> Self {
        Self::new(Method::PUT, path, summary)
    }

    pub(super) const fn delete(path: &'static str, summary: &'static str) -> Self {
        Self::new(Method::DELETE, path, summary)
    }

    /// With what may stand in the query.
    pub(super) fn query<T: JsonSchema>(mut self) -> Self {
        self.query = Some(T::json_schema);
        self
    }

    /// With what headers say.
    pub(crate) const fn headers(mut self, headers: &'static [Header]) -> Self {
        self.headers = headers;
        self
    }

    /// Answered with headers that say something.
    pub(crate) const fn answer_headers(mut self, headers: &'static [Header]) -> Self {
        self.answer_headers = headers;
        self
    }

    /// With a body.
    pub(super) fn body<T: JsonSchema>(self) -> Self {
        self.body_as::<T>(JSON)
    }

    /// With a body of that type, each part of which is one of these.
    pub(super) fn body_as<T: JsonSchema>(mut self, media: &'static str) -> Self {
        self.body = Some(Content(media, SchemaGenerator::subschema_for::<T>));
        self
    }

    /// Answered with that.
    pub(super) fn answers<T: JsonSchema>(self) -> Self {
        self.answers_as::<T>(JSON)
    }

    /// Answered with something of that type.
    pub(super) fn answers_as<T: JsonSchema>(mut self, media: &'static str) -> Self {
        self.answer = Some(Content(media, SchemaGenerator::subschema_for::<T>));
        self
    }

    /// Answered with another status than 200.
    pub(crate) const fn status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// A name that no other has.
    fn id(&self) -> String {
        let words = self.path.split(['/', '{', '}']).filter(|word| !word.is_empty());
        let words: Vec<_> = words.filter(|word| *word != "v1").collect();
        format!("{}_{}", self.method.as_str().to_lowercase(), words.join("_"))
    }

    fn describe(&self, sockets: &[&str], schemas: &mut Schemas) -> Value {
        let mut parameters: Vec<_> = in_path(self.path).map(path_parameter).collect();
        parameters.extend(self.headers.iter().map(|(name, description)| {
            let schema = json!({ "type": "string" });
            json!({ "name": name, "in": "header", "description": description, "schema": schema })
        }));
        if let Some(query) = self.query {
            parameters.extend(query_parameters(query(&mut schemas.read)));
        }
        let mut answer = json!({ "description": self.status.canonical_reason() });
        if let Some(content) = &self.answer {
            answer["content"] = content.describe(&mut schemas.written);
        }
        if !self.answer_headers.is_empty() {
            let header = |(name, description): &Header| {
                let schema = json!({ "type": "string" });
                ((*name).to_owned(), json!({ "description": description, "schema": schema }))
            };
            let headers: Map<_, _> = self.answer_headers.iter().map(header).collect();
            answer["headers"] = Value::Object(headers);
        }
        let problem = Content(PROBLEM, SchemaGenerator::subschema_for::<ProblemJson>);
        let problem = problem.describe(&mut schemas.written);
        let mut operation = json!({
            "operationId": self.id(),
            "summary": self.summary,
            "tags": sockets,
            "parameters": parameters,
            "responses": {
                self.status.as_str(): answer,
                "default": { "description": "A problem.", "content": problem },
            },
        });
        if let Some(content) = &self.body {
            let content = content.describe(&mut schemas.read);
            operation["requestBody"] = json!({ "required": true, "content": content });
        }
        operation
    }
}

impl Content {
    fn describe(&self, schemas: &mut SchemaGenerator) -> Value {
        let Self(media, schema) = self;
        json!({ *media: { "schema": schema(schemas) } })
    }
}

/// Types that are read may leave out what has a default; of those that are written a field
/// may be missing only if it is left out sometimes.
struct Schemas {
    read: SchemaGenerator,
    written: SchemaGenerator,
}

impl Schemas {
    fn new() -> Self {
        let settings = || {
            let mut settings = SchemaSettings::draft2020_12();
            settings.definitions_path = "/components/schemas".into();
            settings.meta_schema = None;
            settings
        };
        let read = settings().for_deserialize().into_generator();
        Self { read, written: settings().for_serialize().into_generator() }
    }

    /// All that have a name.
    fn named(mut self) -> Map<String, Value> {
        let mut named = self.read.take_definitions(true);
        for (name, schema) in self.written.take_definitions(true) {
            let other = named.insert(name.clone(), schema);
            assert!(other.is_none(), "{name} is both read and written");
        }
        named.sort_keys();
        named
    }
}

/// The names in braces.
fn in_path(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}

fn path_parameter(name: &str) -> Value {
    json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } })
}

/// An object's fields, each on its own.
fn query_parameters(mut object: Schema) -> Vec<Value> {
    let required = object.remove("required").unwrap_or_default();
    let is_required = |name: &str| {
        required.as_array().is_some_and(|names| names.iter().any(|required| required == name))
    };
    let Some(Value::Object(fields)) = object.remove("properties") else {
        return Vec::new();
    };
    fields
        .into_iter()
        .map(|(name, mut schema)| {
            // What is left out is not there; there is no way to write null.
            if let Some(Value::Array(types)) = schema.get_mut("type") {
                types.retain(|kind| kind != "null");
                if let [one] = types.as_mut_slice() {
                    schema["type"] = one.take();
                }
            }
            let required = is_required(&name);
            json!({ "name": name, "in": "query", "required": required, "schema": schema })
        })
        .collect()
}

/// The document: what can be asked on which socket.
pub(super) fn document(sockets: Vec<(&'static str, &str, Paths)>) -> Value {
    let mut operations: Vec<(Operation, Vec<&str>)> = Vec::new();
    let mut tags = Vec::new();
    for (socket, description, paths) in sockets {
        tags.push(json!({ "name": socket, "description": description }));
        for operation in paths.operations {
            let same = |(other, _): &&mut (Operation, _)| {
                (&other.method, other.path) == (&operation.method, operation.path)
            };
            match operations.iter_mut().find(same) {
                Some((_, sockets)) => sockets.push(socket),
                None => operations.push((operation, vec![socket])),
            }
        }
    }
    operations.sort_by(|(one, _), (other, _)| {
        (one.path, one.method.as_str()).cmp(&(other.path, other.method.as_str()))
    });
    let mut schemas = Schemas::new();
    let mut paths = Map::new();
    for (operation, sockets) in operations {
        let described = operation.describe(&sockets, &mut schemas);
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method.as_str().to_lowercase()] = described;
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "moderation",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "MIT OR Apache-2.0" },
            "description": "HTTP/1.1 over Unix sockets. A tag says on which socket something \
                            can be asked.",
        },
        "tags": tags,
        "paths": paths,
        "components": { "schemas": schemas.named() },
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn values_of<'a>(value: &'a Value, key: &str, into: &mut Vec<&'a str>) {
        match value {
            Value::Object(fields) => {
                into.extend(fields.get(key).and_then(Value::as_str));
                fields.values().for_each(|value| values_of(value, key, into));
            }
            Value::Array(values) => values.iter().for_each(|value| values_of(value, key, into)),
            _ => {}
        }
    }

    #[test]
    fn every_type_that_is_named_is_described_and_every_operation_has_its_own_name() {
        let document = crate::api::description();
        let mut named = Vec::new();
        values_of(&document, "$ref", &mut named);
        assert!(named.len() > 50, "{named:?}");
        for name in named {
            let place = name.strip_prefix('#').expect("it is in the same document");
            assert!(document.pointer(place).is_some(), "{name}");
        }
        let mut ids = Vec::new();
        values_of(&document["paths"], "operationId", &mut ids);
        assert!(ids.len() > 30, "{ids:?}");
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "{ids:?}");
    }

    #[test]
    fn what_can_be_asked_on_several_sockets_is_described_once() {
        let document = crate::api::description();
        let check = &document["paths"]["/v1/check"]["get"];
        assert_eq!(check["tags"], json!(["app", "admin", "nginx"]));
        assert_eq!(document["paths"]["/v1/bans"]["post"]["tags"], json!(["admin"]));
        assert_eq!(document["paths"]["/v1/events"]["post"]["tags"], json!(["app"]));
    }

    #[test]
    fn a_field_of_a_query_is_a_parameter_that_is_never_null() {
        let document = crate::api::description();
        let parameters = document["paths"]["/v1/limits"]["get"]["parameters"].as_array();
        let parameters = parameters.expect("there are some");
        let user = parameters.iter().find(|it| it["name"] == "user").expect("one is the user");
        assert_eq!(user["schema"]["type"], "string");
        assert_eq!(user["required"], false);
        let kind = parameters.iter().find(|it| it["name"] == "type").expect("one is the type");
        assert_eq!(kind["required"], true);
        let lease = &document["paths"]["/v1/leases/{id}"]["put"]["parameters"][0];
        assert_eq!((&lease["name"], &lease["in"]), (&json!("id"), &json!("path")));
    }
}
