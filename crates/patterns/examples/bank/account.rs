//! The aggregate: an account.

use std::collections::BTreeMap;

use jangada_patterns::eventsource::Aggregate;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// An account, as its events have made it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    pub is_open: bool,
    pub balance: u64,
    /// What has left and not arrived yet, by its transfer.
    pub under_way: BTreeMap<String, u64>,
}

/// What one asks of an account.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Command {
    Open {
        amount: u64,
    },
    Withdraw {
        transfer: String,
        to: String,
        amount: u64,
    },
    Deposit {
        transfer: String,
        from: String,
        amount: u64,
    },
    Settle {
        transfer: String,
    },
    TakeBack {
        transfer: String,
    },
}

/// What has happened to an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    Opened {
        amount: u64,
    },
    Withdrawn {
        transfer: String,
        to: String,
        amount: u64,
    },
    /// There was too little. It is an event, so that it stays refused when the message comes again.
    Refused {
        transfer: String,
        to: String,
        amount: u64,
    },
    Deposited {
        transfer: String,
        from: String,
        amount: u64,
    },
    Settled {
        transfer: String,
        amount: u64,
    },
    TakenBack {
        transfer: String,
        amount: u64,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    #[error("the account is not open")]
    NotOpen,
}

impl Account {
    /// Whether the money of a transfer has left and not arrived yet.
    pub fn is_under_way(&self, transfer: &str) -> bool {
        self.under_way.contains_key(transfer)
    }
}

impl Aggregate for Account {
    type Command = Command;
    type Event = Event;
    type Refusal = Refusal;

    fn handle(&self, command: &Command) -> Result<Vec<Event>, Refusal> {
        if !self.is_open && !matches!(command, Command::Open { .. }) {
            return Err(Refusal::NotOpen);
        }
        Ok(match command.clone() {
            Command::Open { .. } if self.is_open => Vec::new(),
            Command::Open { amount } => vec![Event::Opened { amount }],
            Command::Withdraw { transfer, to, amount } if amount > self.balance => {
                vec![Event::Refused { transfer, to, amount }]
            }
            Command::Withdraw { transfer, to, amount } => vec![Event::Withdrawn { transfer, to, amount }],
            Command::Deposit { transfer, from, amount } => vec![Event::Deposited { transfer, from, amount }],
            Command::Settle { transfer } => match self.under_way.get(&transfer) {
                Some(&amount) => vec![Event::Settled { transfer, amount }],
                None => Vec::new(),
            },
            Command::TakeBack { transfer } => match self.under_way.get(&transfer) {
                Some(&amount) => vec![Event::TakenBack { transfer, amount }],
                None => Vec::new(),
            },
        })
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Opened { amount } => {
                self.is_open = true;
                self.balance = *amount;
            }
            Event::Withdrawn { transfer, amount, .. } => {
                self.balance = self.balance.checked_sub(*amount).expect("an account is below zero");
                self.under_way.insert(transfer.clone(), *amount);
            }
            Event::Refused { .. } => {}
            Event::Deposited { amount, .. } => self.balance += amount,
            Event::Settled { transfer, .. } => drop(self.under_way.remove(transfer)),
            Event::TakenBack { transfer, amount } => {
                self.under_way.remove(transfer);
                self.balance += amount;
            }
        }
    }
}
