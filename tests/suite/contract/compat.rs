//! Finds changes that make a contract incompatible with an older one. Adding is never a break.

use super::listing::{Contract, Member, Members};

/// Each break of `old` by `new`, as a sentence that names it.
pub fn breaks(old: &Contract, new: &Contract) -> Vec<String> {
    let mut breaks = Vec::new();
    for (kind, noun, old, new) in [
        ("message", "field", &old.messages, &new.messages),
        ("enum", "value", &old.enums, &new.enums),
    ] {
        for (name, old) in old {
            match new.get(name) {
                Some(new) => breaks_of_members(name, noun, old, new, &mut breaks),
                None => breaks.push(format!("{kind} {name} was removed")),
            }
        }
    }
    for (service, methods) in &old.services {
        let Some(now) = new.services.get(service) else {
            breaks.push(format!("service {service} was removed"));
            continue;
        };
        for (method, signature) in methods {
            match now.get(method) {
                None => breaks.push(format!("{service}: method {method} was removed")),
                Some(other) if other != signature => {
                    breaks.push(format!("{service}: method {method} was ({signature}) and is ({other})"));
                }
                Some(_) => {}
            }
        }
    }
    breaks
}

fn breaks_of_members(item: &str, noun: &str, old: &Members, new: &Members, breaks: &mut Vec<String>) {
    for (number, member) in &old.members {
        let Member { name, kind } = member;
        if let Some((other, _)) = new
            .members
            .iter()
            .find(|(other, now)| now.name == *name && *other != number)
        {
            breaks.push(format!("{item}: {noun} `{name}` had number {number} and has {other}"));
        }
        match new.members.get(number) {
            None => breaks.push(format!("{item}: {noun} {number} `{name}` was removed")),
            Some(now) if now.name != *name => {
                breaks.push(format!("{item}: number {number} was `{name}` and is `{}`", now.name));
            }
            Some(now) if now.kind != *kind => {
                breaks.push(format!(
                    "{item}: {noun} {number} `{name}` was `{kind}` and is `{}`",
                    now.kind
                ));
            }
            Some(_) => {}
        }
    }
    for reserved in old.reserved.difference(&new.reserved) {
        breaks.push(format!("{item}: `{reserved}` is not reserved any more"));
    }
}

/// Fields and values that were removed without reserving their number and name: a later field could use them again.
pub fn removed_without_reservation(old: &Contract, new: &Contract) -> Vec<String> {
    let mut forgotten = Vec::new();
    for (noun, old, new) in [
        ("field", &old.messages, &new.messages),
        ("value", &old.enums, &new.enums),
    ] {
        for (item, old) in old {
            // A message or enum that is gone altogether has nothing left to confuse.
            let Some(new) = new.get(item) else { continue };
            for (number, Member { name, .. }) in &old.members {
                let number_is_free = !new.members.contains_key(number) && !new.reserves_number(*number);
                let name_is_free = !new.members.values().any(|now| now.name == *name) && !new.reserved.contains(name);
                if number_is_free || name_is_free {
                    let reserve = format!("reserved {number}; reserved \"{name}\";");
                    forgotten.push(format!("{item}: {noun} {number} `{name}` is gone without `{reserve}`"));
                }
            }
        }
    }
    forgotten
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "\
enum p.Acks
  0 ACKS_UNSPECIFIED
  1 ACKS_QUORUM
message p.Request
  1 topic: string
  2 payload: bytes
  reserved 5 old_name
service p.Log
  Produce: p.Request -> p.Response
";

    fn contract(text: &str) -> Contract {
        Contract::parse(text).expect("the test's listing is valid")
    }

    fn breaks_after(from: &str, to: &str) -> Vec<String> {
        assert!(OLD.contains(from));
        breaks(&contract(OLD), &contract(&OLD.replace(from, to)))
    }

    #[test]
    fn an_addition_is_compatible() {
        assert_eq!(
            breaks_after("  2 payload: bytes\n", "  2 payload: bytes\n  3 more: string\n"),
            [""; 0]
        );
        assert_eq!(
            breaks_after("service p.Log\n", "service p.Log\n  Fetch: p.Request -> p.Response\n"),
            [""; 0]
        );
        assert_eq!(
            breaks_after("enum p.Acks\n", "message p.New\n  1 a: string\nenum p.Acks\n"),
            [""; 0]
        );
        assert_eq!(breaks_after("reserved 5 old_name", "reserved 5 6 old_name"), [""; 0]);
    }

    #[test]
    fn a_removed_field_is_a_break() {
        assert_eq!(
            breaks_after("  2 payload: bytes\n", ""),
            ["p.Request: field 2 `payload` was removed"]
        );
    }

    #[test]
    fn a_renumbered_field_is_a_break() {
        let expected = [
            "p.Request: field `payload` had number 2 and has 4",
            "p.Request: field 2 `payload` was removed",
        ];
        assert_eq!(breaks_after("2 payload", "4 payload"), expected);
    }

    #[test]
    fn a_retyped_field_is_a_break() {
        let expected = ["p.Request: field 2 `payload` was `bytes` and is `repeated bytes`"];
        assert_eq!(breaks_after("payload: bytes", "payload: repeated bytes"), expected);
    }

    #[test]
    fn a_number_used_again_is_a_break() {
        assert_eq!(
            breaks_after("2 payload", "2 body"),
            ["p.Request: number 2 was `payload` and is `body`"]
        );
        assert_eq!(
            breaks_after("1 ACKS_QUORUM", "1 ACKS_ALL"),
            ["p.Acks: number 1 was `ACKS_QUORUM` and is `ACKS_ALL`"]
        );
    }

    #[test]
    fn a_name_used_again_elsewhere_is_a_break() {
        let swapped = breaks_after(
            "  1 topic: string\n  2 payload: bytes\n",
            "  1 payload: string\n  2 topic: bytes\n",
        );
        assert_eq!(swapped.len(), 4, "{swapped:?}");
    }

    #[test]
    fn a_lost_reservation_is_a_break() {
        assert_eq!(
            breaks_after(" old_name", ""),
            ["p.Request: `old_name` is not reserved any more"]
        );
    }

    #[test]
    fn a_removed_or_changed_method_is_a_break() {
        let removed = breaks_after("  Produce: p.Request -> p.Response\n", "");
        assert_eq!(removed, ["p.Log: method Produce was removed"]);
        let changed = breaks_after("p.Request -> p.Response", "stream p.Request -> p.Response");
        assert_eq!(
            changed,
            ["p.Log: method Produce was (p.Request -> p.Response) and is (stream p.Request -> p.Response)"]
        );
    }

    #[test]
    fn a_removed_item_is_a_break() {
        assert_eq!(
            breaks(&contract(OLD), &Contract::default()),
            [
                "message p.Request was removed",
                "enum p.Acks was removed",
                "service p.Log was removed"
            ]
        );
    }

    #[test]
    fn what_is_removed_on_purpose_stays_reserved() {
        let old = contract(OLD);
        let removed = OLD.replace("  2 payload: bytes\n", "");
        let forgotten = removed_without_reservation(&old, &contract(&removed));
        assert_eq!(
            forgotten,
            ["p.Request: field 2 `payload` is gone without `reserved 2; reserved \"payload\";`"]
        );
        let reserved = removed.replace("reserved 5 old_name", "reserved 2..5 old_name payload");
        assert_eq!(removed_without_reservation(&old, &contract(&reserved)), [""; 0]);
    }
}
