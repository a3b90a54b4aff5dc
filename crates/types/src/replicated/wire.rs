//! Conversions of the fields of commands and replies to and from their forms in messages.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::frame::{CodecError, malformed, topic_id};
use crate::ids::{
    BrokerId, ExchangeId, GroupId, Incarnation, LeaderEpoch, Offset, PartitionIndex, ProducerEpoch, ProducerId,
    QueueId, TopicId,
};

/// A value with `Form` as its type in a message.
pub trait Wire<Form>: Sized {
    /// The value's form in the message.
    fn to_form(&self) -> Form;

    /// The value of a form. `what` names the thing that is read, for the error.
    ///
    /// # Errors
    /// When no value has this form.
    fn from_form(what: &'static str, form: Form) -> Result<Self, CodecError>;
}

/// Types that messages can have directly.
macro_rules! as_they_are {
    ($($ty:ty),*) => {$(
        impl Wire<$ty> for $ty {
            fn to_form(&self) -> $ty {
                self.clone()
            }

            fn from_form(_: &'static str, form: $ty) -> Result<Self, CodecError> {
                Ok(form)
            }
        }
    )*};
}

as_they_are!(bool, u32, u64, i64, String, BTreeMap<String, String>);

/// Newtypes around a number.
macro_rules! numbers {
    ($($ty:ident as $form:ty),*) => {$(
        impl Wire<$form> for $ty {
            fn to_form(&self) -> $form {
                self.get()
            }

            fn from_form(_: &'static str, form: $form) -> Result<Self, CodecError> {
                Ok(Self(form))
            }
        }
    )*};
}

numbers! {
    BrokerId as u32, Incarnation as u32, PartitionIndex as u32, LeaderEpoch as u32, GroupId as u64, ProducerId as i64,
    Offset as i64
}

impl Wire<i32> for ProducerEpoch {
    fn to_form(&self) -> i32 {
        self.get().into()
    }

    fn from_form(what: &'static str, form: i32) -> Result<Self, CodecError> {
        i16::try_from(form)
            .map(Self)
            .map_err(|_| malformed(what, format!("producer epoch {form} is beyond 16 bits")))
    }
}

impl Wire<Vec<u8>> for TopicId {
    fn to_form(&self) -> Vec<u8> {
        self.as_bytes().to_vec()
    }

    fn from_form(what: &'static str, form: Vec<u8>) -> Result<Self, CodecError> {
        topic_id(what, &form)
    }
}

impl Wire<Vec<u8>> for QueueId {
    fn to_form(&self) -> Vec<u8> {
        self.to_bytes().to_vec()
    }

    fn from_form(what: &'static str, form: Vec<u8>) -> Result<Self, CodecError> {
        Self::from_slice(&form).ok_or_else(|| malformed(what, format!("a queue id of {} bytes, not 16", form.len())))
    }
}

impl Wire<Vec<u8>> for ExchangeId {
    fn to_form(&self) -> Vec<u8> {
        self.to_bytes().to_vec()
    }

    fn from_form(what: &'static str, form: Vec<u8>) -> Result<Self, CodecError> {
        Self::from_slice(&form)
            .ok_or_else(|| malformed(what, format!("an exchange id of {} bytes, not 16", form.len())))
    }
}

impl Wire<String> for Arc<str> {
    fn to_form(&self) -> String {
        self.to_string()
    }

    fn from_form(_: &'static str, form: String) -> Result<Self, CodecError> {
        Ok(form.into())
    }
}

impl<T: Wire<Form>, Form> Wire<Option<Form>> for Option<T> {
    fn to_form(&self) -> Option<Form> {
        self.as_ref().map(T::to_form)
    }

    fn from_form(what: &'static str, form: Option<Form>) -> Result<Self, CodecError> {
        form.map(|form| T::from_form(what, form)).transpose()
    }
}

impl<T: Wire<Form>, Form> Wire<Vec<Form>> for Vec<T> {
    fn to_form(&self) -> Vec<Form> {
        self.iter().map(T::to_form).collect()
    }

    fn from_form(what: &'static str, form: Vec<Form>) -> Result<Self, CodecError> {
        form.into_iter().map(|form| T::from_form(what, form)).collect()
    }
}

impl<T: Wire<Form>, Form> Wire<Vec<Form>> for Arc<[T]> {
    fn to_form(&self) -> Vec<Form> {
        self.iter().map(T::to_form).collect()
    }

    fn from_form(what: &'static str, form: Vec<Form>) -> Result<Self, CodecError> {
        form.into_iter().map(|form| T::from_form(what, form)).collect()
    }
}
