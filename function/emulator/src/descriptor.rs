//! Dataproc's own message descriptions: the template is kept as the sender wrote it, fields included that are newer than
//! the generated types.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, ReflectMessage, Value};

static DESCRIPTORS: &[u8] = include_bytes!("../../workflow/data/dataproc_v1.binpb");

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    #[expect(clippy::expect_used, reason = "part of the binary, and every test decodes it")]
    DescriptorPool::decode(DESCRIPTORS).expect("the descriptor set is part of the project")
});

/// Full names of the fields that are annotated REQUIRED.
static REQUIRED: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    let Some(behaviour) = POOL.get_extension_by_name("google.api.field_behavior") else {
        return BTreeSet::new();
    };
    // google.api.FieldBehavior.REQUIRED
    let required = Value::EnumNumber(2);
    POOL.all_messages()
        .flat_map(|message| message.fields().collect::<Vec<_>>())
        .filter(|field| match field.options().get_extension(&behaviour).as_ref() {
            Value::List(behaviours) => behaviours.contains(&required),
            _ => false,
        })
        .map(|field| field.full_name().to_owned())
        .collect()
});

/// `InstantiateInlineWorkflowTemplateRequest`.
pub(crate) fn instantiate_inline() -> MessageDescriptor {
    #[expect(clippy::expect_used, reason = "part of the binary, and every test looks it up")]
    POOL.get_message_by_name("google.cloud.dataproc.v1.InstantiateInlineWorkflowTemplateRequest")
        .expect("the descriptor set has the request")
}

pub(crate) fn is_required(field: &str) -> bool {
    REQUIRED.contains(field)
}

/// A field's value if it is set; a default has nothing to borrow and counts as not set.
fn set<'a>(owner: &'a DynamicMessage, field: &str) -> Option<&'a Value> {
    match owner.get_field_by_name(field)? {
        Cow::Borrowed(value) => Some(value),
        Cow::Owned(_) => None,
    }
}

pub(crate) fn text<'a>(owner: &'a DynamicMessage, field: &str) -> &'a str {
    set(owner, field).and_then(Value::as_str).unwrap_or_default()
}

pub(crate) fn texts<'a>(owner: &'a DynamicMessage, field: &str) -> Vec<&'a str> {
    let items = set(owner, field).and_then(Value::as_list).into_iter().flatten();
    items.filter_map(Value::as_str).collect()
}

pub(crate) fn number(owner: &DynamicMessage, field: &str) -> i64 {
    set(owner, field).map_or(0, |value| value.as_i64().or(value.as_i32().map(i64::from)).unwrap_or(0))
}

pub(crate) fn message<'a>(owner: &'a DynamicMessage, field: &str) -> Option<&'a DynamicMessage> {
    set(owner, field)?.as_message()
}

pub(crate) fn messages<'a>(owner: &'a DynamicMessage, field: &str) -> impl Iterator<Item = &'a DynamicMessage> {
    let items = set(owner, field).and_then(Value::as_list).into_iter().flatten();
    items.filter_map(Value::as_message)
}

/// The message that was chosen in a message's oneof, if one was; a job's type is found like this.
pub(crate) fn of_oneof(owner: &DynamicMessage) -> Option<&DynamicMessage> {
    let descriptor = owner.descriptor();
    let members =
        descriptor.oneofs().filter(|oneof| !oneof.is_synthetic()).flat_map(|oneof| oneof.fields().collect::<Vec<_>>());
    members.into_iter().find_map(|field| message(owner, field.name()))
}

pub(crate) fn labels(owner: &DynamicMessage) -> BTreeMap<String, String> {
    let labels = set(owner, "labels").and_then(Value::as_map).into_iter().flatten();
    labels.filter_map(|(key, value)| Some((key.as_str()?.to_owned(), value.as_str()?.to_owned()))).collect()
}
