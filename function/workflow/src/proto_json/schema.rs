//! Dataproc's messages as data: the descriptor that drives decoding, and what the service asks of each field.
//!
//! `data/template.binpb` is made by `data/make_descriptor.py` (`make descriptor`). It is newer than gcloud-sdk's
//! generated types, which would drop the fields that they do not know.

use std::collections::HashMap;
use std::sync::LazyLock;

use prost_reflect::{DescriptorPool, FieldDescriptor, MessageDescriptor};

/// Fields of `ManagedCluster` that are REQUIRED of the service, not of the operator: the name is always made here, and
/// `config` may come from the request's parts. `template` looks at the merged cluster instead.
const MADE_HERE: [&str; 2] =
    ["google.cloud.dataproc.v1.ManagedCluster.cluster_name", "google.cloud.dataproc.v1.ManagedCluster.config"];

/// Of an annotation `google.api.field_behavior`, what a sender has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    Required,
    OutputOnly,
}

struct Schema {
    pool: DescriptorPool,
    /// The annotated fields of each message, by its full name.
    behaviours: HashMap<String, Vec<(FieldDescriptor, Behaviour)>>,
}

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
    let bytes = include_bytes!("../../data/template.binpb").as_slice();
    // Compiled in, and read by every test that decodes anything.
    let pool = DescriptorPool::decode(bytes).expect("the compiled-in descriptor is one");
    let behaviours = behaviours(&pool);
    Schema { pool, behaviours }
});

/// The messages of Dataproc's workflow templates. Decoded at the first call, which takes some milliseconds.
pub fn pool() -> &'static DescriptorPool {
    &SCHEMA.pool
}

/// The descriptor of `google.cloud.dataproc.v1.<name>`, which must exist: for names that tests look up.
pub fn dataproc(name: &str) -> MessageDescriptor {
    let full_name = format!("google.cloud.dataproc.v1.{name}");
    pool().get_message_by_name(&full_name).expect("the descriptor has the messages that the program names")
}

/// The field `name` of a message, which must exist: for names that tests look up.
pub fn field(message: &MessageDescriptor, name: &str) -> FieldDescriptor {
    message.get_field_by_name(name).expect("the descriptor has the fields that the program names")
}

/// The fields of a message that must be given, and those that only the service may set.
pub fn behaviours_of(message: &MessageDescriptor) -> &'static [(FieldDescriptor, Behaviour)] {
    SCHEMA.behaviours.get(message.full_name()).map_or(&[], Vec::as_slice)
}

fn behaviours(pool: &DescriptorPool) -> HashMap<String, Vec<(FieldDescriptor, Behaviour)>> {
    let mut found: HashMap<String, Vec<_>> = HashMap::new();
    for message in pool.all_messages().filter(|message| message.package_name() == "google.cloud.dataproc.v1") {
        for field in message.fields().filter(|field| !MADE_HERE.contains(&field.full_name())) {
            if let Some(behaviour) = behaviour(&field) {
                found.entry(message.full_name().into()).or_default().push((field, behaviour));
            }
        }
    }
    found
}

/// Reads the annotation `google.api.field_behavior`, whose values are numbers of the enum `google.api.FieldBehavior`.
fn behaviour(field: &FieldDescriptor) -> Option<Behaviour> {
    let options = field.options();
    let (_, values) =
        options.extensions().find(|(extension, _)| extension.full_name() == "google.api.field_behavior")?;
    values.as_list()?.iter().find_map(|value| match value.as_enum_number() {
        Some(2) => Some(Behaviour::Required),
        Some(3) => Some(Behaviour::OutputOnly),
        _ => None,
    })
}
