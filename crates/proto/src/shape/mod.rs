//! The memory that a message will take, found out from its bytes before it is decoded.
//!
//! Two bytes on the wire can be an empty message, which takes a hundred bytes decoded: a small request may become
//! gigabytes. [`Contract`] knows the fields of every message from the descriptors of the contract, and a [`Scan`] walks a
//! message's bytes as they arrive, in pieces of any size: it counts elements, unknown bytes and memory, and stops where one
//! of its [`Bounds`] is passed. Payloads are passed over, so a large batch costs a scan no more than a small one.

mod scan;

use std::collections::HashMap;

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

pub use self::scan::{Bounds, Excess, Scan};
use crate::FILE_DESCRIPTOR_SET;

/// Memory of a string or a vector beside its content, bytes.
const TEXT_BYTES: usize = size_of::<String>();
/// Memory of a shared slice beside its content, bytes.
const SLICE_BYTES: usize = size_of::<bytes::Bytes>();
/// Memory of a field that may be absent beside its value, bytes.
const OPTIONAL_BYTES: usize = 8;

/// All messages and methods of the contract.
#[derive(Debug)]
pub struct Contract {
    shapes: Vec<Shape>,
    methods: HashMap<String, Method>,
}

/// A method of the contract.
#[derive(Clone, Debug)]
pub struct Method {
    /// The names of service and method without the package, as in `LogService/Produce`.
    pub name: String,
    /// Whether its requests are a stream.
    pub is_stream: bool,
    /// The method's index in [`Contract::methods`].
    pub number: usize,
    input: usize,
}

/// A kind of message: its fields, and the bytes that it takes in memory without those that its fields refer to.
#[derive(Debug, Default)]
struct Shape {
    /// The fields by number; the contract has no large numbers.
    fields: Vec<Option<Field>>,
    bytes: usize,
}

#[derive(Clone, Copy, Debug)]
struct Field {
    /// Identifies the field among those that a message had: its number, or that of the first field of its `oneof`, of
    /// which decoders keep one.
    slot: u32,
    kind: Kind,
    is_repeated: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Varint,
    Fixed32,
    Fixed64,
    Text,
    Slice,
    /// A message, by the index of its shape.
    Message(usize),
}

impl Contract {
    /// Reads the contract from its descriptors.
    pub fn new() -> Self {
        let files = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("the build wrote descriptors");
        let mut messages = Vec::new();
        for file in &files.file {
            collect(&format!(".{}", file.package()), &file.message_type, &mut messages);
        }
        let indexes: HashMap<&str, usize> = messages.iter().map(|(name, _)| name.as_str()).zip(0..).collect();
        let mut shapes: Vec<Shape> = messages.iter().map(|(_, message)| shape(message, &indexes)).collect();
        for index in 0..shapes.len() {
            shapes[index].bytes = bytes_of(&shapes, index);
        }
        let mut methods = HashMap::new();
        for file in &files.file {
            for service in &file.service {
                for method in &service.method {
                    let name = format!("{}/{}", service.name(), method.name());
                    let path = format!("/{}.{name}", file.package());
                    let method = Method {
                        input: indexes[method.input_type()],
                        is_stream: method.client_streaming(),
                        number: methods.len(),
                        name,
                    };
                    methods.insert(path, method);
                }
            }
        }
        Self { shapes, methods }
    }

    /// The method that a request's path names.
    pub fn method(&self, path: &str) -> Option<&Method> {
        self.methods.get(path)
    }

    /// All methods, each at the index of its number.
    pub fn methods(&self) -> Vec<&Method> {
        let mut methods: Vec<&Method> = self.methods.values().collect();
        methods.sort_by_key(|method| method.number);
        methods
    }
}

impl Default for Contract {
    fn default() -> Self {
        Self::new()
    }
}

impl Shape {
    fn field(&self, number: u64) -> Option<Field> {
        *self.fields.get(usize::try_from(number).ok()?)?
    }
}

/// Adds all messages with their full names, nested ones too.
fn collect<'a>(within: &str, messages: &'a [DescriptorProto], all: &mut Vec<(String, &'a DescriptorProto)>) {
    for message in messages {
        let name = format!("{within}.{}", message.name());
        collect(&name, &message.nested_type, all);
        all.push((name, message));
    }
}

fn shape(message: &DescriptorProto, indexes: &HashMap<&str, usize>) -> Shape {
    let mut fields = Vec::new();
    let mut first_of: HashMap<i32, i32> = HashMap::new();
    for field in &message.field {
        let oneof = field.oneof_index.filter(|_| !field.proto3_optional());
        let slot = oneof.map_or(field.number(), |index| *first_of.entry(index).or_insert(field.number()));
        let number = usize::try_from(field.number()).expect("numbers of fields are positive");
        if fields.len() <= number {
            fields.resize(number + 1, None);
        }
        fields[number] = Some(Field {
            slot: u32::try_from(slot).expect("numbers of fields have 29 bits"),
            kind: kind(field, indexes),
            is_repeated: field.label() == Label::Repeated,
        });
    }
    Shape { fields, bytes: 0 }
}

fn kind(field: &FieldDescriptorProto, indexes: &HashMap<&str, usize>) -> Kind {
    match field.r#type() {
        Type::Double | Type::Fixed64 | Type::Sfixed64 => Kind::Fixed64,
        Type::Float | Type::Fixed32 | Type::Sfixed32 => Kind::Fixed32,
        Type::String => Kind::Text,
        Type::Bytes => Kind::Slice,
        Type::Message | Type::Group => Kind::Message(indexes[field.type_name()]),
        _ => Kind::Varint,
    }
}

/// Bytes that a message takes by itself: an upper bound, since all fields of a `oneof` are counted. No message of the
/// contract contains itself.
fn bytes_of(shapes: &[Shape], index: usize) -> usize {
    let fields = shapes[index].fields.iter().flatten();
    let bytes = fields.map(|field| match field.kind {
        _ if field.is_repeated => TEXT_BYTES,
        Kind::Varint | Kind::Fixed32 | Kind::Fixed64 => size_of::<u64>() + OPTIONAL_BYTES,
        Kind::Text => TEXT_BYTES,
        Kind::Slice => SLICE_BYTES,
        Kind::Message(inner) => bytes_of(shapes, inner) + OPTIONAL_BYTES,
    });
    bytes.sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1;

    fn bytes(contract: &Contract, path: &str) -> usize {
        contract.shapes[contract.method(path).expect("there is such a method").input].bytes
    }

    #[test]
    fn a_message_takes_no_more_than_its_shape_says() {
        let contract = Contract::new();
        assert!(size_of::<v1::ProduceRequest>() <= bytes(&contract, "/jangada.v1.LogService/Produce"));
        assert!(size_of::<v1::FetchRequest>() <= bytes(&contract, "/jangada.v1.LogService/Fetch"));
        assert!(size_of::<v1::HeartbeatRequest>() <= bytes(&contract, "/jangada.v1.GroupService/Heartbeat"));
        assert!(size_of::<v1::CommitOffsetsRequest>() <= bytes(&contract, "/jangada.v1.GroupService/CommitOffsets"));
        let elements = [
            ("Record", size_of::<v1::Record>()),
            ("RecordHeader", size_of::<v1::RecordHeader>()),
            ("PartitionOffset", size_of::<v1::PartitionOffset>()),
            ("TopicPartition", size_of::<v1::TopicPartition>()),
            ("TopicPartitions", size_of::<v1::TopicPartitions>()),
        ];
        let files = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("the build wrote descriptors");
        let mut messages = Vec::new();
        for file in &files.file {
            collect(&format!(".{}", file.package()), &file.message_type, &mut messages);
        }
        for (name, bytes) in elements {
            let full = format!(".jangada.v1.{name}");
            let index = messages.iter().position(|(known, _)| *known == full);
            let shape = &contract.shapes[index.expect("there is such a message")];
            assert!(
                bytes <= shape.bytes,
                "{name}: {bytes} bytes, {} by its shape",
                shape.bytes
            );
        }
    }

    #[test]
    fn streams_of_requests_are_known() {
        let contract = Contract::new();
        let is_stream = |path| contract.method(path).map(|method| method.is_stream);
        assert_eq!(is_stream("/jangada.v1.LogService/Produce"), Some(false));
        assert_eq!(is_stream("/jangada.v1.LogService/ProduceStream"), Some(true));
        assert_eq!(is_stream("/jangada.internal.v1.InternalService/Bulk"), Some(true));
        assert_eq!(is_stream("/jangada.v1.LogService/Consume"), None);
    }
}
