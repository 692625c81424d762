//! A hard-linked copy of the live version, kept ready for the next one to
//! start from: that then costs only what differs.

use updraft_model::Digest;

use crate::error::while_doing;
use crate::failpoint::failpoint;
use crate::materialize::{Base, Build};
use crate::remove::remove_tree;
use crate::staging::Staging;
use crate::verify;
use crate::version::{BundleDir, SPARE, sync_folder, temporary_name};
use crate::{Verify, VersionError};

impl BundleDir {
    /// Keeps a copy of a version ready. False when it was there already. The
    /// spare of another version is made into it, at the cost of what differs.
    pub fn prepare_spare(&self, of: &Digest) -> Result<bool, VersionError> {
        let path = self.spare_path(of);
        if path.exists() {
            return Ok(false);
        }
        let version = self.open_base(of)?.ok_or(VersionError::Missing(*of))?;
        let other = self.take_any_spare()?;
        let tables = &version.record.layers;
        let mut build = match other {
            Some((ref base, spare)) => Build::on_spare(spare, Some(base), tables)?,
            None => Build::on_links(self, Some(&version), tables)?,
        };
        failpoint("bundle.spare.half_linked");
        build.link_from(&version)?;
        if build.on_disk.iter().any(Option::is_none) {
            // Files that were tampered with, or cannot be linked, would have
            // to be fetched; the next version does that as it needs them.
            return Ok(false);
        }
        build.finish()?;
        build.staging.publish(&path)?;
        sync_folder(self.versions_dir())?;
        failpoint("bundle.spare.end");
        Ok(true)
    }

    /// The spare of a version, when there is one and nobody touched it.
    pub(crate) fn take_spare(&self, of: Option<&Base>) -> Result<Option<Staging>, VersionError> {
        let Some(base) = of else { return Ok(None) };
        let spare = self.spare_path(&base.digest);
        if !spare.exists() {
            return Ok(None);
        }
        let spare = Staging::adopt(&spare, self.versions_dir().join(temporary_name()))?;
        let damage = verify::compare(spare.path(), &base.record, Verify::Quick)
            .map_err(while_doing("verify", spare.path()))?;
        Ok(damage.is_empty().then_some(spare))
    }

    /// A spare of whichever version, with that version. All others are removed.
    fn take_any_spare(&self) -> Result<Option<(Base, Staging)>, VersionError> {
        let mut taken = None;
        let listed = std::fs::read_dir(self.versions_dir())
            .map_err(while_doing("list", self.versions_dir()))?;
        for entry in listed.flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str().and_then(|name| name.strip_prefix(SPARE)) else {
                continue;
            };
            let of = Digest::from_folder(&format!("sha256-{name}")).filter(|_| taken.is_none());
            if let Some(Ok(Some(base))) = of.map(|digest| self.open_base(&digest))
                && let Ok(Some(spare)) = self.take_spare(Some(&base))
            {
                taken = Some((base, spare));
                continue;
            }
            let path = entry.path();
            remove_tree(&path).map_err(while_doing("remove", &path))?;
        }
        Ok(taken)
    }
}
