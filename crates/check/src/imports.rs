//! Imports that nobody provides.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;
use std::{fs, io};

use crate::finding::Found;
use crate::module::{Facts, Import};
use crate::rule::Rule;

const PROVIDERS: &str = "airflow.providers";
/// Folders of `airflow/providers` that hold several providers.
const GROUPS: &[&str] = &["apache", "atlassian", "cncf", "common", "dbt", "microsoft"];

/// What is installed where the DAG files are imported.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Installed {
    /// Top-level names; none: only the providers are known.
    modules: Option<HashSet<String>>,
    /// Such as `amazon` and `apache.spark`.
    providers: HashSet<String>,
}

impl Installed {
    /// Looks into the `site-packages` of a virtual environment.
    pub fn read(site_packages: &Path) -> io::Result<Self> {
        let mut modules = HashSet::new();
        for name in names(site_packages)? {
            if name.starts_with("__editable__") {
                // Where such a package lies, only code knows.
                modules.extend(declared(site_packages)?);
            }
            let path = site_packages.join(&name);
            if path.extension().is_some_and(|it| it == "pth") {
                let text = fs::read_to_string(&path)?;
                let lines = text.lines().map(str::trim);
                let folders = lines.filter(|line| {
                    !line.is_empty() && !line.starts_with('#') && !line.starts_with("import")
                });
                for folder in folders {
                    modules.extend(own_modules(&site_packages.join(folder)));
                }
            }
            modules.extend(module_name(&name).map(str::to_owned));
        }
        let folder = site_packages.join("airflow/providers");
        let mut providers = HashSet::new();
        for name in names(&folder).unwrap_or_default() {
            let inside = names(&folder.join(&name)).unwrap_or_default();
            if !inside.iter().any(|file| file == "get_provider_info.py") {
                providers.extend(inside.iter().map(|second| format!("{name}.{second}")));
            }
            if !GROUPS.contains(&name.as_str()) {
                providers.insert(name);
            }
        }
        Ok(Self {
            modules: Some(modules),
            providers,
        })
    }

    /// Goes by the names of packages, such as a lock's. They tell of providers
    /// which modules they have, and of nothing else.
    pub fn providers_among<'a>(packages: impl IntoIterator<Item = &'a str>) -> Self {
        let packages = packages.into_iter().filter_map(|package| {
            let package = package.to_ascii_lowercase().replace(['_', '.'], "-");
            let provider = package.strip_prefix("apache-airflow-providers-")?;
            Some(provider.replace('-', "."))
        });
        Self {
            modules: None,
            providers: packages.collect(),
        }
    }

    fn has(&self, module: &str) -> bool {
        let Some(inside) = module.strip_prefix(PROVIDERS) else {
            return self
                .modules
                .as_ref()
                .is_none_or(|modules| modules.contains(module));
        };
        let mut parts = inside.trim_start_matches('.').split('.');
        let (first, second) = (parts.next().unwrap_or_default(), parts.next());
        match second {
            _ if self.providers.contains(first) => true,
            Some(second) => self.providers.contains(&format!("{first}.{second}")),
            // A group that has something; its parts are imported elsewhere.
            None => GROUPS.contains(&first),
        }
    }
}

/// The name of the provider that a module belongs to, such as `apache.spark`.
fn provider(module: &str) -> Option<String> {
    let inside = module.strip_prefix(PROVIDERS)?.strip_prefix('.')?;
    let is_in_group = GROUPS.contains(&inside.split('.').next()?);
    let parts = inside.split('.').take(if is_in_group { 2 } else { 1 });
    Some(parts.collect::<Vec<_>>().join("."))
}

/// What of an import decides whether somebody provides it; none for what is
/// always there.
pub(crate) fn deciding(module: &str, python_minor: u8) -> Option<&str> {
    let first = module.split('.').next().unwrap_or(module);
    if first != "airflow" {
        // Which the list leaves out.
        let is_pythons = first == "__future__"
            || ruff_python_stdlib::sys::is_known_standard_library(python_minor, first);
        return (!is_pythons).then_some(first);
    }
    let inside = module.strip_prefix(PROVIDERS)?.strip_prefix('.')?;
    let end = inside.match_indices('.').nth(1).map(|(at, _)| at);
    Some(&module[..PROVIDERS.len() + 1 + end.unwrap_or(inside.len())])
}

/// Finds imports of what is not installed and not the project's own.
pub(crate) fn missing<'a>(
    files: &[(&'a str, &'a Facts)],
    installed: &Installed,
    own: &BTreeSet<String>,
) -> Vec<(&'a str, Found)> {
    let imports = files.iter().flat_map(|(file, facts)| {
        let imports = facts.imports.iter();
        imports.map(move |import| (*file, import))
    });
    imports
        .filter(|(_, import)| !own.contains(&import.module) && !installed.has(&import.module))
        .map(|(file, import)| (file, found(import)))
        .collect()
}

fn found(import: &Import) -> Found {
    let module = &import.module;
    let message = match provider(module) {
        Some(provider) => format!(
            "`{PROVIDERS}.{provider}` is not there: `apache-airflow-providers-{}` is not installed",
            provider.replace('.', "-")
        ),
        None => format!("`{module}` is neither installed nor part of the project"),
    };
    Found {
        rule: Rule::Import,
        place: import.place,
        text: import.text.clone(),
        message,
    }
}

/// Names of the modules and packages that a folder has: those of a project's
/// root, its `dags/` and its `plugins/` can be imported by its DAG files.
pub fn own_modules(folder: &Path) -> BTreeSet<String> {
    let names = names(folder).unwrap_or_default();
    let modules = names.iter().filter_map(|name| module_name(name));
    modules.map(str::to_owned).collect()
}

/// The module that a file or folder of this name is.
fn module_name(name: &str) -> Option<&str> {
    let (stem, extension) = name.split_once('.').unwrap_or((name, ""));
    let is_module = extension.is_empty() || extension == "py" || extension.ends_with("so");
    let is_name = ruff_python_stdlib::identifiers::is_identifier(stem);
    (is_module && is_name).then_some(stem)
}

fn names(folder: &Path) -> io::Result<Vec<String>> {
    let names = fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
    names.filter_map(Result::transpose).collect()
}

/// Names that the packages in a folder say they have.
fn declared(site_packages: &Path) -> io::Result<Vec<String>> {
    let packages = names(site_packages)?;
    let lists = packages
        .iter()
        .filter(|name| {
            Path::new(name)
                .extension()
                .is_some_and(|it| it == "dist-info")
        })
        .filter_map(|name| fs::read_to_string(site_packages.join(name).join("top_level.txt")).ok());
    Ok(lists
        .flat_map(|list| list.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_decides_is_kept_of_an_import() {
        for (module, kept) in [
            ("os.path", None),
            ("tomllib", None),
            ("airflow", None),
            ("airflow.sdk", None),
            ("airflow.providers", None),
            ("pandas.io.sql", Some("pandas")),
            ("airflow.providers.smtp", Some("airflow.providers.smtp")),
            (
                "airflow.providers.apache.spark.hooks.x",
                Some("airflow.providers.apache.spark"),
            ),
        ] {
            assert_eq!(deciding(module, 12), kept, "{module}");
        }
        assert_eq!(deciding("tomllib", 10), Some("tomllib"));
    }

    #[test]
    fn a_lock_tells_of_providers() {
        let lock = [
            "apache-airflow-providers-common-sql",
            "Apache_Airflow_Providers_SMTP",
            "x",
        ];
        let installed = Installed::providers_among(lock);
        for module in [
            "pandas",
            "airflow.providers.smtp.hooks",
            "airflow.providers.common.sql",
            "airflow.providers.common",
        ] {
            assert!(installed.has(module), "{module}");
        }
        for (module, needs) in [
            ("airflow.providers.common.io", "common.io"),
            ("airflow.providers.amazon.aws", "amazon"),
            ("airflow.providers.amazon", "amazon"),
        ] {
            assert!(!installed.has(module), "{module}");
            assert_eq!(provider(module).as_deref(), Some(needs));
        }
    }
}
