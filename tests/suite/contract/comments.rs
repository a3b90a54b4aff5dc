//! Checks the comments of a .proto file: one before each field, enum value and method; at a method also `Errors:`, and
//! after it the reasons that it may give. A comment behind a field does not count: it is easily taken for the next
//! one's.

use std::collections::BTreeMap;

use jangada_types::Reason;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto};

use super::listing::is_map_entry;

/// The components of a comment's path, besides indexes: numbers of fields in `descriptor.proto`.
mod tag {
    pub const FILE_MESSAGE: i32 = 4;
    pub const FILE_ENUM: i32 = 5;
    pub const FILE_SERVICE: i32 = 6;
    pub const MESSAGE_FIELD: i32 = 2;
    pub const MESSAGE_NESTED: i32 = 3;
    pub const MESSAGE_ENUM: i32 = 4;
    pub const ENUM_VALUE: i32 = 2;
    pub const SERVICE_METHOD: i32 = 2;
}

/// The omissions of a file, as sentences.
pub fn omissions(file: &FileDescriptorProto) -> Vec<String> {
    let mut comments = Comments::of(file);
    for (index, message) in (0..).zip(&file.message_type) {
        comments.look_at_message(&[tag::FILE_MESSAGE, index], message.name(), message);
    }
    for (index, one) in (0..).zip(&file.enum_type) {
        comments.look_at_enum(&[tag::FILE_ENUM, index], one);
    }
    for (index, service) in (0..).zip(&file.service) {
        for (method_index, method) in (0..).zip(&service.method) {
            let path = [tag::FILE_SERVICE, index, tag::SERVICE_METHOD, method_index];
            comments.look_at_method(&path, &format!("{}.{}", service.name(), method.name()));
        }
    }
    comments.omissions
}

struct Comments<'a> {
    /// The comments before things, by the things' paths.
    by_path: BTreeMap<&'a [i32], &'a str>,
    omissions: Vec<String>,
}

impl<'a> Comments<'a> {
    fn of(file: &'a FileDescriptorProto) -> Self {
        let locations = file.source_code_info.iter().flat_map(|info| &info.location);
        let by_path = locations.filter_map(|location| {
            let comment = location.leading_comments.as_deref()?.trim();
            (!comment.is_empty()).then_some((location.path.as_slice(), comment))
        });
        Self {
            by_path: by_path.collect(),
            omissions: Vec::new(),
        }
    }

    /// Takes a comment; records an omission if there is none.
    fn take(&mut self, path: &[i32], name: &str) -> Option<&'a str> {
        let comment = self.by_path.get(path).copied();
        if comment.is_none() {
            self.omissions.push(format!("{name} has no comment before it"));
        }
        comment
    }

    fn look_at_message(&mut self, path: &[i32], name: &str, message: &DescriptorProto) {
        for (index, field) in (0..).zip(&message.field) {
            let name = format!("{name}.{}", field.name());
            self.take(&below(path, tag::MESSAGE_FIELD, index), &name);
        }
        for (index, one) in (0..).zip(&message.enum_type) {
            self.look_at_enum(&below(path, tag::MESSAGE_ENUM, index), one);
        }
        for (index, nested) in (0..).zip(&message.nested_type) {
            // A map's entry stands nowhere in the file.
            if !is_map_entry(nested) {
                let name = format!("{name}.{}", nested.name());
                self.look_at_message(&below(path, tag::MESSAGE_NESTED, index), &name, nested);
            }
        }
    }

    fn look_at_enum(&mut self, path: &[i32], one: &EnumDescriptorProto) {
        for (index, value) in (0..).zip(&one.value) {
            self.take(&below(path, tag::ENUM_VALUE, index), value.name());
        }
    }

    fn look_at_method(&mut self, path: &[i32], name: &str) {
        let Some(comment) = self.take(path, name) else { return };
        let Some((_, errors)) = comment.split_once("Errors:") else {
            self.omissions
                .push(format!("{name} does not say after `Errors:` which reasons it may give"));
            return;
        };
        let words = errors.split(|c: char| !c.is_ascii_uppercase() && c != '_');
        let unknown = words.filter(|word| word.len() > 1 && Reason::parse(word).is_none());
        self.omissions
            .extend(unknown.map(|word| format!("{name} names {word}, which is no reason")));
    }
}

fn below(path: &[i32], tag: i32, index: i32) -> Vec<i32> {
    [path, &[tag, index]].concat()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const SOUND: &str = "\
syntax = \"proto3\";
package p;
service Log {
  // Writes.
  //
  // Errors: BROKER_BUSY (try again), DISK_FULL.
  rpc Write(Request) returns (Request);
}
message Request {
  // How.
  Way way = 1;

  oneof what {
    // Text.
    string text = 2;
  }

  // By key.
  map<string, string> settings = 3;

  message Inner {
    // A number.
    int32 number = 1;
  }
}
enum Way {
  // This one.
  WAY_UNSPECIFIED = 0;
  // That one.
  WAY_OTHER = 1;
}
";

    fn omissions_of(text: &str) -> Vec<String> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::write(folder.path().join("p.proto"), text).expect("the folder can be written");
        let descriptors = protox::compile(["p.proto"], [folder.path()]).unwrap_or_else(|error| panic!("{error:?}"));
        descriptors.file.iter().flat_map(omissions).collect()
    }

    fn omissions_after(from: &str, to: &str) -> Vec<String> {
        assert!(SOUND.contains(from));
        omissions_of(&SOUND.replace(from, to))
    }

    #[test]
    fn a_file_that_says_all_is_sound() {
        assert_eq!(omissions_of(SOUND), [""; 0]);
    }

    #[test]
    fn whatever_has_no_comment_is_named() {
        for (comment, name) in [
            (
                "  // Writes.\n  //\n  // Errors: BROKER_BUSY (try again), DISK_FULL.\n",
                "Log.Write",
            ),
            ("  // How.\n", "Request.way"),
            ("    // Text.\n", "Request.text"),
            ("  // By key.\n", "Request.settings"),
            ("    // A number.\n", "Request.Inner.number"),
            ("  // That one.\n", "WAY_OTHER"),
        ] {
            assert_eq!(
                omissions_after(comment, ""),
                [format!("{name} has no comment before it")]
            );
        }
    }

    #[test]
    fn a_comment_without_words_or_behind_is_none() {
        assert_eq!(
            omissions_after("// How.\n", "//\n"),
            ["Request.way has no comment before it"]
        );
        assert_eq!(
            omissions_after("  // How.\n  Way way = 1;\n", "  Way way = 1; // How.\n"),
            ["Request.way has no comment before it"]
        );
    }

    #[test]
    fn a_method_names_the_reasons_of_its_errors() {
        assert_eq!(
            omissions_after("Errors:", "Fails with"),
            ["Log.Write does not say after `Errors:` which reasons it may give"]
        );
        assert_eq!(
            omissions_after("DISK_FULL", "DISC_FULL"),
            ["Log.Write names DISC_FULL, which is no reason"]
        );
    }
}
