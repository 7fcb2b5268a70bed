//! What name servers say of a challenge name: the walk from the name to where the value really lives, and whether the value is
//! to be seen there.

use serde::{Serialize, Serializer};
use strum::IntoStaticStr;
use utoipa::ToSchema;

use super::challenge::{Observation, printable};

/// From the challenge name along its aliases, zone by zone. Names have the final dot and are lower-case.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Walk {
    pub hops: Vec<Hop>,
    pub ended: WalkEnd,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WalkEnd {
    /// Where no alias leads any further.
    #[default]
    Arrived,
    /// At an alias of a name that our own name servers answer for.
    Home,
    /// The aliases lead back to one of them.
    Loop,
    /// The aliases go on for longer than any resolver follows them.
    TooLong,
    /// Nothing was asked: too many other names were being looked at.
    NotBegun,
}

/// One name, asked of every server of its zone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Hop {
    /// With the final dot.
    pub owner: String,
    /// The zone that the name is in; null where it could not be found.
    pub zone: Option<String>,
    /// One per address.
    pub servers: Vec<ServerAnswer>,
    /// Where the name is an alias of another: that one.
    pub alias: Option<String>,
}

/// What one server said at one of its addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ServerAnswer {
    pub server: String,
    /// Null where the server's name has none.
    pub address: Option<String>,
    pub result: ServerResult,
    /// At most 10 of the TXT values there.
    #[serde(serialize_with = "as_shown")]
    pub values: Vec<String>,
    pub alias: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, IntoStaticStr, ToSchema)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum ServerResult {
    /// There are TXT records.
    Values,
    /// The name is an alias.
    Alias,
    /// NXDOMAIN
    NameNotFound,
    /// The name exists, or names below it, without a TXT record.
    NoRecord,
    Refused,
    /// SERVFAIL, or any other error.
    ServerFailure,
    /// The server does not speak for the zone.
    NotAuthoritative,
    Unreachable,
}

/// Whether expected values are to be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sight {
    /// At every server that answers.
    Everywhere,
    /// Not at this one, or not through these aliases: a clause for people.
    NotAt(String),
    /// No server can be asked, or none answers: nothing is known.
    NobodyAnswers,
}

impl ServerAnswer {
    /// Whether this is an answer to the question, and no failure to give one.
    pub fn has_answered(&self) -> bool {
        use ServerResult as R;
        matches!(self.result, R::Values | R::Alias | R::NameNotFound | R::NoRecord)
    }

    pub fn shows(&self, expected: &[String]) -> bool {
        expected.iter().all(|value| self.values.contains(value))
    }

    /// `ns1.example.net. (192.0.2.1)`
    pub fn place(&self) -> String {
        match &self.address {
            Some(address) => format!("{} ({address})", self.server),
            None => self.server.clone(),
        }
    }
}

impl Hop {
    pub fn answering(&self) -> impl Iterator<Item = &ServerAnswer> {
        self.servers.iter().filter(|server| server.has_answered())
    }
}

impl Walk {
    pub fn not_begun() -> Self {
        Self { ended: WalkEnd::NotBegun, ..Self::default() }
    }

    /// Servers that do not answer are no veto, as long as others do.
    pub fn sight(&self, expected: &[String]) -> Sight {
        if self.ended == WalkEnd::NotBegun {
            return Sight::NotAt("too many other names are being looked at".to_owned());
        }
        if self.hops.is_empty() {
            return Sight::NobodyAnswers;
        }
        for (number, hop) in (1..).zip(&self.hops) {
            if hop.answering().next().is_none() {
                return Sight::NobodyAnswers;
            }
            let goes_on = number < self.hops.len() || self.ended == WalkEnd::Home;
            let shows = |server: &ServerAnswer| {
                let follows = goes_on && hop.alias.is_some() && server.alias == hop.alias;
                follows || (!expected.is_empty() && server.shows(expected))
            };
            if let Some(without) = hop.answering().find(|server| !shows(server)) {
                return Sight::NotAt(format!("{} does not show it", without.place()));
            }
        }
        match self.ended {
            WalkEnd::Loop | WalkEnd::TooLong | WalkEnd::NotBegun => Sight::NotAt("the aliases lead nowhere".to_owned()),
            WalkEnd::Arrived | WalkEnd::Home => Sight::Everywhere,
        }
    }
}

fn as_shown<S: Serializer>(values: &[String], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(values.iter().take(Observation::MAX_VALUES).map(|value| printable(value)))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// `ns1=values:x,y`, `ns1=alias:target.`, `ns1=name_not_found`
    pub(in crate::model) fn server(text: &str) -> ServerAnswer {
        use ServerResult as R;
        let (name, answer) = text.split_once('=').unwrap();
        let (result, what) = answer.split_once(':').unwrap_or((answer, ""));
        let result = match result {
            "values" => R::Values,
            "alias" => R::Alias,
            "name_not_found" => R::NameNotFound,
            "no_record" => R::NoRecord,
            "refused" => R::Refused,
            "server_failure" => R::ServerFailure,
            "not_authoritative" => R::NotAuthoritative,
            "unreachable" => R::Unreachable,
            _ => panic!("{text}"),
        };
        let values = if result == R::Values { what.split(',').map(str::to_owned).collect() } else { Vec::new() };
        let alias = (result == R::Alias).then(|| what.to_owned());
        ServerAnswer { server: format!("{name}."), address: Some("192.0.2.1".to_owned()), result, values, alias }
    }

    pub(in crate::model) fn hop(owner: &str, zone: &str, servers: &[&str]) -> Hop {
        let servers: Vec<ServerAnswer> = servers.iter().map(|text| server(text)).collect();
        let alias = servers.iter().find_map(|server| server.alias.clone());
        Hop { owner: owner.to_owned(), zone: Some(zone.to_owned()), servers, alias }
    }

    fn sight(hops: &[&[&str]], ended: WalkEnd) -> Sight {
        let hops = hops.iter().map(|servers| hop("o.", "z.", servers)).collect();
        Walk { hops, ended }.sight(&["v".to_owned()])
    }

    #[test]
    fn the_value_is_there_when_all_that_answer_show_it() {
        use WalkEnd as E;
        let not_at = |server: &str| Sight::NotAt(format!("{server}. (192.0.2.1) does not show it"));
        let cases: [(&[&[&str]], E, Sight); 12] = [
            (&[], E::Arrived, Sight::NobodyAnswers),
            (&[&["a=values:v", "b=values:x,v"]], E::Arrived, Sight::Everywhere),
            (&[&["a=values:v", "b=values:x"]], E::Arrived, not_at("b")),
            (&[&["a=values:v", "b=name_not_found"]], E::Arrived, not_at("b")),
            (&[&["a=values:v", "b=unreachable", "c=not_authoritative"]], E::Arrived, Sight::Everywhere),
            (&[&["a=refused", "b=server_failure"]], E::Arrived, Sight::NobodyAnswers),
            (&[&["a=alias:t."], &["b=values:v"]], E::Arrived, Sight::Everywhere),
            (&[&["a=alias:t.", "b=alias:u."], &["c=values:v"]], E::Arrived, not_at("b")),
            (&[&["a=alias:t."], &["b=unreachable"]], E::Arrived, Sight::NobodyAnswers),
            (&[&["a=alias:t."]], E::Home, Sight::Everywhere),
            (&[&["a=alias:t.", "b=no_record"]], E::Home, not_at("b")),
            (&[&["a=alias:t."]], E::Loop, not_at("a")),
        ];
        for (hops, ended, expected) in cases {
            assert_eq!(sight(hops, ended), expected, "{hops:?}");
        }
    }

    #[test]
    fn foreign_values_are_shown_without_control_characters() {
        let mut answer = server("a=values:x");
        answer.values = vec!["a\u{1b}[31m".to_owned(); 12];
        let shown = serde_json::to_value(&answer).unwrap();
        assert_eq!(shown["values"][0], "a\u{fffd}[31m");
        assert_eq!(shown["values"].as_array().unwrap().len(), Observation::MAX_VALUES);
    }
}
