//! Publish a JSON job request to a topic; get an ephemeral Dataproc cluster, the jobs run in order on it, the cluster gone,
//! and the result as a CloudEvent on the response topic: once, whatever fails in between.
//!
//! Three ideas carry it. Pub/Sub hands over and the record in the bucket is the truth: a request is acked as soon as its
//! record stands. There is one step function, [`advance::advance`]: request, tick and audit log only call it, and it may be
//! called at any time, by anyone, twice. And: look before you submit, record before you announce an end, announce before
//! you forget.
//!
//! In the order in which an event flows; `main.rs` reads the environment, starts the log and serves [`handle::handle`]:
//!
//! | module | what lives there | pure |
//! |---|---|---|
//! | [`environment`] | the operator's variables, every bad one reported at once | yes |
//! | [`telemetry`] | logs: JSON for Cloud Logging on Cloud Run, text elsewhere | |
//! | [`clock`] | the time of day, the system's or a test's | |
//! | [`context`] | what handling an event needs: environment, clients, clock, deadline | |
//! | [`handle`] | one event, from its arrival to its line in the log | |
//! | [`trigger`] | CloudEvent -> request, tick, or look at an operation; the Pub/Sub envelope | yes |
//! | [`accept`] | a request: from message to record, the whole sequence | |
//! | [`json`] | a document as its author wrote it, repeated keys kept | yes |
//! | [`violation`] | what is wrong with a document, and where | yes |
//! | [`cluster_config`] | the operator's configuration, and the entry for a job | yes |
//! | [`request`] | the request's own keys -> [`request::Request`] and its run id | yes |
//! | [`proto_json`] | JSON walked against a message's descriptor -> message, and every fault with its path | yes |
//! | [`rules`] | what Dataproc is known to refuse | yes |
//! | [`code_prefixes`] | what a request may run | yes |
//! | [`template`] | request and entry -> the template, and the call's request for an attempt | yes |
//! | [`identity`] | the request_id and the cluster's name by which Dataproc knows an attempt | yes |
//! | [`wire`] | a message -> its bytes | yes |
//! | [`inquire`] | status and cancel: messages about a run rather than for one | |
//! | [`record`] | the record of a run, as the bucket holds it | yes |
//! | [`records`] | reading and writing records and markers | |
//! | [`bury`] | records that cannot be read | |
//! | [`journal`] | what the log says about a run | |
//! | [`advance`] | one run, one step: look, submit, follow, finish; the whole sequence | |
//! | [`run`] | the record's transitions: what comes next, and what each thing that happens makes of it | yes |
//! | [`outcome`] | operation, metadata and jobs -> progress, end, root cause | yes |
//! | [`refusal`] | what a refused submission means for the run | yes |
//! | [`listing`] | the region's workflows, listed once for all runs that look for theirs | |
//! | [`findings`] | what the jobs of an ended workflow show | |
//! | [`sweep`] | a tick: every active run; the audit log's event: one run | |
//! | [`response`] | a run's change -> CloudEvent -> Pub/Sub message | yes |
//! | [`google`] | one authenticated connection to a service, and how every call over it is made | |
//! | [`credentials`] | the access token of the account that this runs as | |
//! | [`channel`] | one HTTP/2 connection, in the form that the generated clients take | |
//! | [`dataproc`], [`pubsub`], [`storage`] | thin calls over the generated clients | |
//! | [`error`] | what can fail, and what keeps an event from being dealt with | yes |
//!
//! What holds everywhere:
//!
//! 1. Pure modules never await and never read the environment, the clock or randomness: time, ids and jitter come in as
//!    arguments.
//! 2. A template is made by descriptor alone and sent as its bytes, because the generated types lack newer fields and
//!    would drop them. Its parts (entry, each job, labels, ...) are decoded each against its own message and then merged as
//!    messages, so that each fault keeps its path in its author's document. Fields are named only in `rules`,
//!    `code_prefixes` and `template`; Dataproc's generated types only in `outcome`, `dataproc`, and for jobs in `advance`.
//! 3. The environment is read only in `main.rs`, through [`environment::Environment`].
//! 4. HTTP status codes appear only in functions-framework. A handler answers `Result<(), Error>`: what another delivery can
//!    mend (no record and no answer yet, for want of storage or of the response topic; a cancel before its request; time used
//!    up) is to be delivered again, everything else is acked. Bad input is answered and acked.
//! 5. Nothing of ours is spawned that outlives its event, but the connections (which are made, and the descriptor read, while
//!    the port begins to answer): on Cloud Run the CPU is gone once the response is sent.
//! 6. A terminal state is recorded before it is published, and the marker is deleted only after that.

// The process and its means.
pub mod environment;
pub mod telemetry;

pub mod clock;
pub mod context;

// An event.
pub mod handle;
pub mod trigger;

// A request, and what it is read with.
pub mod accept;

pub mod json;
pub mod violation;

pub mod cluster_config;
pub mod request;

pub mod proto_json;
pub mod rules;

pub mod code_prefixes;
pub mod identity;
pub mod template;
pub mod wire;

pub mod inquire;

// A run.
pub mod record;
pub mod records;

pub mod bury;
pub mod journal;

pub mod advance;
pub mod run;

pub mod findings;
pub mod listing;
pub mod outcome;
pub mod refusal;

pub mod sweep;

pub mod response;

// Google's services.
pub mod google;

pub mod channel;
pub mod credentials;

pub mod dataproc;
pub mod pubsub;
pub mod storage;

pub mod error;
