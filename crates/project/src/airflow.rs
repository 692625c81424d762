//! Airflow and Python versions, and which go together.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A released Airflow version, such as `3.3.2` or `3.4.0rc1`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AirflowVersion {
    major: u16,
    minor: u16,
    patch: u16,
    /// `rc1`, `b2`; empty for a release.
    pre: String,
}

/// A Python version as Airflow names it: `3.12`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PythonVersion {
    major: u8,
    minor: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidVersion {
    #[error("`{0}` is not an Airflow version: expected one like `3.3.2`")]
    Airflow(String),
    #[error("`{0}` is not a Python version: expected one like `3.12`")]
    Python(String),
    #[error("Airflow {0} is not supported")]
    UnsupportedAirflow(AirflowVersion),
    #[error("Airflow {airflow} does not run on Python {python}")]
    UnsupportedPython {
        airflow: AirflowVersion,
        python: PythonVersion,
    },
}

impl InvalidVersion {
    pub fn help(&self) -> &'static str {
        match self {
            Self::Airflow(_) => "give all three numbers, as in `3.3.2` or `2.11.2`",
            Self::Python(_) => "give major and minor number, as in `3.12`",
            Self::UnsupportedAirflow(_) => "use Airflow 2.11, or 3.0 and newer",
            Self::UnsupportedPython { .. } => {
                "Airflow 2.11 and 3.0 run on Python 3.10 to 3.12, 3.1 up to 3.13, 3.2 and newer up to 3.14"
            }
        }
    }
}

impl AirflowVersion {
    pub const fn major(&self) -> u16 {
        self.major
    }

    pub const fn minor(&self) -> u16 {
        self.minor
    }

    /// The minor numbers of the Python 3 versions it runs on; `None` when
    /// Updraft does not run this Airflow.
    pub fn pythons(&self) -> Option<RangeInclusive<u8>> {
        match (self.major, self.minor) {
            (2, 11) | (3, 0) => Some(10..=12),
            (3, 1) => Some(10..=13),
            (3, _) => Some(10..=14),
            _ => None,
        }
    }

    /// The oldest Python it runs on.
    pub fn oldest_python(&self) -> Option<PythonVersion> {
        self.pythons()
            .map(|minors| PythonVersion::new(3, *minors.start()))
    }

    /// The Python of the official image whose tag names none.
    pub const fn default_python() -> PythonVersion {
        PythonVersion::new(3, 12)
    }

    pub fn runs_on(&self, python: PythonVersion) -> bool {
        python.major == 3
            && self
                .pythons()
                .is_some_and(|minors| minors.contains(&python.minor))
    }

    /// Refuses versions that Updraft does not run, and unfit Pythons.
    pub fn check(&self, python: PythonVersion) -> Result<(), InvalidVersion> {
        if self.pythons().is_none() {
            return Err(InvalidVersion::UnsupportedAirflow(self.clone()));
        }
        if !self.runs_on(python) {
            return Err(InvalidVersion::UnsupportedPython {
                airflow: self.clone(),
                python,
            });
        }
        Ok(())
    }
}

impl PythonVersion {
    pub const fn new(major: u8, minor: u8) -> Self {
        Self { major, minor }
    }

    pub const fn major(self) -> u8 {
        self.major
    }

    pub const fn minor(self) -> u8 {
        self.minor
    }
}

impl FromStr for AirflowVersion {
    type Err = InvalidVersion;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidVersion::Airflow(text.chars().take(80).collect());
        let mut parts = text.splitn(3, '.');
        let mut part = || parts.next().ok_or_else(invalid);
        let (major, minor, last) = (part()?, part()?, part()?);
        let digits = last
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(last.len());
        let (patch, pre) = last.split_at(digits);
        if !is_pre_release(pre) {
            return Err(invalid());
        }
        let number = |text: &str| number(text).ok_or_else(invalid);
        Ok(Self {
            major: number(major)?,
            minor: number(minor)?,
            patch: number(patch)?,
            pre: pre.to_owned(),
        })
    }
}

impl FromStr for PythonVersion {
    type Err = InvalidVersion;

    /// Also takes `3.12.4`: the patch number does not matter.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidVersion::Python(text.chars().take(80).collect());
        let mut parts = text.split('.');
        let mut part = || parts.next().and_then(number);
        let version = match (part(), part()) {
            (Some(major), Some(minor)) => Self { major, minor },
            _ => return Err(invalid()),
        };
        match (parts.next(), parts.next()) {
            (None, _) => Ok(version),
            (Some(patch), None) if number::<u16>(patch).is_some() => Ok(version),
            _ => Err(invalid()),
        }
    }
}

/// Reads a number without the sign that `parse` would take.
fn number<T: FromStr>(text: &str) -> Option<T> {
    text.bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

fn is_pre_release(text: &str) -> bool {
    text.is_empty()
        || ["rc", "a", "b"].iter().any(|kind| {
            text.strip_prefix(kind)
                .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
        })
}

impl fmt::Display for AirflowVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{}.{}{}",
            self.major, self.minor, self.patch, self.pre
        )
    }
}

impl fmt::Display for PythonVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

macro_rules! as_text {
    ($($name:ident)*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

as_text!(AirflowVersion PythonVersion);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_versions_and_refuses_the_rest() {
        for fine in ["3.3.2", "2.11.0", "3.4.0rc1", "3.0.0b2"] {
            let version: AirflowVersion = fine.parse().expect("a version");
            assert_eq!(version.to_string(), fine);
        }
        for wrong in [
            "",
            "3",
            "3.3",
            "3.3.",
            "latest",
            "3.3.2.1",
            "3.3.x",
            "+3.3.2",
            "3.3.2-slim",
        ] {
            assert!(wrong.parse::<AirflowVersion>().is_err(), "{wrong}");
        }
        assert_eq!("3.12".parse(), Ok(PythonVersion::new(3, 12)));
        assert_eq!("3.12.4".parse(), Ok(PythonVersion::new(3, 12)));
        for wrong in ["", "3", "3.", "three", "3.12.x", "3.12.1.0"] {
            assert!(wrong.parse::<PythonVersion>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn knows_which_pythons_an_airflow_runs_on() {
        let check = |airflow: &str, python: &str| {
            let airflow: AirflowVersion = airflow.parse().expect("a version");
            airflow.check(python.parse().expect("a version"))
        };
        assert!(check("3.3.2", "3.14").is_ok());
        assert!(check("2.11.2", "3.12").is_ok());
        assert!(matches!(
            check("3.0.6", "3.13"),
            Err(InvalidVersion::UnsupportedPython { .. })
        ));
        assert!(matches!(
            check("2.10.5", "3.12"),
            Err(InvalidVersion::UnsupportedAirflow(_))
        ));
    }
}
