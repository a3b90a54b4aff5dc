//! A contract as a listing that a person can read and `git diff` can compare: one fact a line.
//!
//! ```text
//! enum jangada.v1.Acks
//!   1 ACKS_QUORUM
//! message jangada.v1.ProduceRequest
//!   4 batch: oneof payload bytes
//!   reserved 7 old_name
//! service jangada.v1.LogService
//!   Fetch: jangada.v1.FetchRequest -> jangada.v1.FetchResponse
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet, MethodDescriptorProto,
    field_descriptor_proto::{Label, Type},
};

/// Everything of one package that others rely on, by full name.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Contract {
    pub messages: BTreeMap<String, Members>,
    pub enums: BTreeMap<String, Members>,
    pub services: BTreeMap<String, BTreeMap<String, String>>,
}

/// A message's fields or an enum's values by number, and what is reserved: numbers, ranges `5..9` (inclusive) and names.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Members {
    pub members: BTreeMap<i32, Member>,
    pub reserved: BTreeSet<String>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Member {
    pub name: String,
    /// Cardinality and type as in the .proto file; empty for an enum's value.
    pub kind: String,
}

impl Members {
    pub fn reserves_number(&self, number: i32) -> bool {
        self.reserved.iter().any(|reserved| match reserved.split_once("..") {
            Some((first, last)) => {
                let bounds = first.parse::<i32>().ok().zip(last.parse::<i32>().ok());
                bounds.is_some_and(|(first, last)| (first..=last).contains(&number))
            }
            None => reserved.parse() == Ok(number),
        })
    }
}

const HEADER: &str = "\
# The contract as it was recorded: what stands here must stay. Written by the test `contract`; do not edit.
";

impl fmt::Display for Contract {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HEADER)?;
        for (keyword, items) in [("enum", &self.enums), ("message", &self.messages)] {
            for (name, item) in items {
                writeln!(f, "{keyword} {name}")?;
                for (number, Member { name, kind }) in &item.members {
                    match kind.as_str() {
                        "" => writeln!(f, "  {number} {name}")?,
                        _ => writeln!(f, "  {number} {name}: {kind}")?,
                    }
                }
                if !item.reserved.is_empty() {
                    let reserved: Vec<&str> = item.reserved.iter().map(String::as_str).collect();
                    writeln!(f, "  reserved {}", reserved.join(" "))?;
                }
            }
        }
        for (name, methods) in &self.services {
            writeln!(f, "service {name}")?;
            for (method, signature) in methods {
                writeln!(f, "  {method}: {signature}")?;
            }
        }
        Ok(())
    }
}

impl Contract {
    /// Reads what `Display` wrote.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut contract = Self::default();
        let mut current = (String::new(), String::new());
        for (index, line) in text.lines().enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let read = match line.strip_prefix("  ") {
                None => contract.begin(line).map(|item| current = item),
                Some(member) => contract.read_member(&current.0, &current.1, member),
            };
            read.ok_or_else(|| format!("line {}: {line:?}", index + 1))?;
        }
        Ok(contract)
    }

    /// Begins the item that `line` names, and returns its keyword and name.
    fn begin(&mut self, line: &str) -> Option<(String, String)> {
        let (keyword, name) = line.split_once(' ')?;
        match keyword {
            "enum" => self.enums.entry(name.to_owned()).or_default().members.clear(),
            "message" => self.messages.entry(name.to_owned()).or_default().members.clear(),
            "service" => self.services.entry(name.to_owned()).or_default().clear(),
            _ => return None,
        }
        Some((keyword.to_owned(), name.to_owned()))
    }

    fn read_member(&mut self, keyword: &str, item: &str, line: &str) -> Option<()> {
        if keyword == "service" {
            let (method, signature) = line.split_once(": ")?;
            self.services
                .get_mut(item)?
                .insert(method.to_owned(), signature.to_owned());
            return Some(());
        }
        let items = if keyword == "enum" {
            &mut self.enums
        } else {
            &mut self.messages
        };
        let item = items.get_mut(item)?;
        if let Some(reserved) = line.strip_prefix("reserved ") {
            item.reserved.extend(reserved.split(' ').map(str::to_owned));
            return Some(());
        }
        let (number, rest) = line.split_once(' ')?;
        let (name, kind) = rest.split_once(": ").unwrap_or((rest, ""));
        let member = Member {
            name: name.to_owned(),
            kind: kind.to_owned(),
        };
        item.members.insert(number.parse().ok()?, member);
        Some(())
    }
}

/// The contracts of the project's packages in `descriptors`.
pub fn by_package(descriptors: &FileDescriptorSet) -> BTreeMap<String, Contract> {
    let mut contracts: BTreeMap<String, Contract> = BTreeMap::new();
    for file in &descriptors.file {
        // Google's own files come along when they are imported.
        if !file.package().starts_with("jangada.") {
            continue;
        }
        let contract = contracts.entry(file.package().to_owned()).or_default();
        for message in &file.message_type {
            contract.add_message(file.package(), message);
        }
        for one in &file.enum_type {
            contract.add_enum(file.package(), one);
        }
        for service in &file.service {
            let methods = service
                .method
                .iter()
                .map(|method| (method.name().to_owned(), signature(method)));
            contract
                .services
                .insert(format!("{}.{}", file.package(), service.name()), methods.collect());
        }
    }
    contracts
}

impl Contract {
    fn add_message(&mut self, scope: &str, message: &DescriptorProto) {
        let name = format!("{scope}.{}", message.name());
        let fields = message.field.iter();
        let members = fields.map(|field| {
            let member = Member {
                name: field.name().to_owned(),
                kind: field_kind(message, &name, field),
            };
            (field.number(), member)
        });
        let mut listed = Members {
            members: members.collect(),
            reserved: message.reserved_name.iter().cloned().collect(),
        };
        for range in &message.reserved_range {
            // A message's range ends before its end, an enum's at its end.
            listed.reserved.insert(range_text(range.start(), range.end() - 1));
        }
        self.messages.insert(name.clone(), listed);
        for nested in message.nested_type.iter().filter(|nested| !is_map_entry(nested)) {
            self.add_message(&name, nested);
        }
        for one in &message.enum_type {
            self.add_enum(&name, one);
        }
    }

    fn add_enum(&mut self, scope: &str, one: &EnumDescriptorProto) {
        let values = one.value.iter();
        let members = values.map(|value| {
            (
                value.number(),
                Member {
                    name: value.name().to_owned(),
                    kind: String::new(),
                },
            )
        });
        let mut listed = Members {
            members: members.collect(),
            reserved: one.reserved_name.iter().cloned().collect(),
        };
        for range in &one.reserved_range {
            listed.reserved.insert(range_text(range.start(), range.end()));
        }
        self.enums.insert(format!("{scope}.{}", one.name()), listed);
    }
}

fn range_text(first: i32, last: i32) -> String {
    if first == last {
        first.to_string()
    } else {
        format!("{first}..{last}")
    }
}

/// Whether the message is what a map field has in its place.
pub fn is_map_entry(message: &DescriptorProto) -> bool {
    message.options.as_ref().is_some_and(|options| options.map_entry())
}

/// The type of a field as in the .proto file: `repeated string`, `map<string, string>`, `oneof payload bytes`.
fn field_kind(message: &DescriptorProto, message_name: &str, field: &FieldDescriptorProto) -> String {
    let entry = message
        .nested_type
        .iter()
        .find(|nested| is_map_entry(nested) && field.type_name() == format!(".{message_name}.{}", nested.name()));
    if let Some(entry) = entry {
        let [key, value] = entry.field.as_slice() else {
            panic!("{message_name}: a map entry has a key and a value")
        };
        return format!("map<{}, {}>", type_name(key), type_name(value));
    }
    let kind = type_name(field);
    if field.label() == Label::Repeated {
        format!("repeated {kind}")
    } else if field.proto3_optional() {
        format!("optional {kind}")
    } else if let Some(index) = field.oneof_index {
        let oneof = usize::try_from(index)
            .ok()
            .and_then(|index| message.oneof_decl.get(index));
        format!("oneof {} {kind}", oneof.expect("a field's oneof is declared").name())
    } else {
        kind
    }
}

fn type_name(field: &FieldDescriptorProto) -> String {
    match field.r#type() {
        Type::Message | Type::Enum | Type::Group => field.type_name().trim_start_matches('.').to_owned(),
        // `TYPE_UINT32` is `uint32` in a .proto file.
        scalar => scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    }
}

fn signature(method: &MethodDescriptorProto) -> String {
    let side = |name: &str, streams: bool| {
        let stream = if streams { "stream " } else { "" };
        format!("{stream}{}", name.trim_start_matches('.'))
    };
    let input = side(method.input_type(), method.client_streaming());
    format!("{input} -> {}", side(method.output_type(), method.server_streaming()))
}
