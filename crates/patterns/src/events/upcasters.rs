//! Brings events that were written under an older schema up to the newest version, one step at a time.

use std::collections::BTreeMap;

use serde_json::Value;

/// One step: the data of a version becomes that of the next; an error is a sentence.
type Step = Box<dyn Fn(Value) -> Result<Value, String> + Send + Sync>;

/// Steps from each version of an event to the next. What is in a topic stays as it was written; readers see only the newest.
///
/// ```
/// use jangada_patterns::events::Upcasters;
/// use serde_json::json;
///
/// let mut upcasters = Upcasters::default();
/// // Version 2 has cents instead of whole coins.
/// upcasters.step("shop.order.paid", 1, |mut data| {
///     let coins = data["coins"].as_u64().ok_or("no coins")?;
///     data["cents"] = json!(coins * 100);
///     Ok(data)
/// });
/// let newest = upcasters.bring_up("shop.order.paid", (1, 2), json!({"coins": 3})).unwrap();
/// assert_eq!(newest["cents"], 300);
/// ```
#[derive(Default)]
pub struct Upcasters {
    /// By type and the version that it begins with.
    steps: BTreeMap<(String, u32), Step>,
}

impl Upcasters {
    /// Sets the step from a version of a type to the next one.
    pub fn step(
        &mut self,
        event_type: &str,
        from: u32,
        step: impl Fn(Value) -> Result<Value, String> + Send + Sync + 'static,
    ) {
        self.steps.insert((event_type.to_owned(), from), Box::new(step));
    }

    /// Brings data of a type from the version in which it was written up to the newest one, by all steps between.
    ///
    /// # Errors
    /// A sentence: it is newer than the newest one that is known, a step is missing, or one failed.
    pub fn bring_up(&self, event_type: &str, (from, to): (u32, u32), data: Value) -> Result<Value, String> {
        if from > to {
            return Err(format!("its version {from} is newer than {to}, the newest known here"));
        }
        (from..to).try_fold(data, |data, version| {
            let step = self.steps.get(&(event_type.to_owned(), version));
            let step = step.ok_or_else(|| format!("no upcaster leads from version {version} of {event_type} on"))?;
            step(data).map_err(|why| format!("the upcaster of version {version} failed: {why}"))
        })
    }
}

impl std::fmt::Debug for Upcasters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.steps.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn steps_are_taken_one_after_the_other() {
        let mut upcasters = Upcasters::default();
        for version in 1..4 {
            upcasters.step("t", version, move |data| {
                assert_eq!(data, json!(version), "in order");
                Ok(json!(version + 1))
            });
        }
        assert_eq!(upcasters.bring_up("t", (1, 4), json!(1)), Ok(json!(4)));
        assert_eq!(upcasters.bring_up("t", (3, 4), json!(3)), Ok(json!(4)));
        assert_eq!(
            upcasters.bring_up("t", (4, 4), json!("as it is")),
            Ok(json!("as it is"))
        );
    }

    #[test]
    fn what_cannot_be_brought_up_says_why() {
        let mut upcasters = Upcasters::default();
        upcasters.step("t", 1, |_| Err("no coins".to_owned()));
        let error = |versions| upcasters.bring_up("t", versions, json!(0)).expect_err("it fails");
        assert!(error((1, 2)).contains("no coins"));
        assert!(error((2, 3)).contains("no upcaster leads from version 2"));
        assert!(error((3, 2)).contains("newer"));
    }
}
