//! How the container images of a control plane's Releases are had on this machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::runtime::Handle;
use updraft_api::Client;
use updraft_image::registry::Credentials;
use updraft_image::{Engine, EngineError, EngineName, Image, Login, Stop};
use updraft_model::ContainerImage;

use crate::failure::Result;
use crate::files;
use crate::image_build::Builder;

/// The user that goes with a token: the registry takes any.
const USER: &str = "updraft";

#[derive(Clone, Default)]
pub(crate) struct Reach {
    /// The control plane's registry, and who asks it.
    registry: Option<(String, Client)>,
    /// Who runs them; none: the first engine that works.
    runner: Option<Builder>,
}

impl Reach {
    pub(crate) fn of(client: &Client) -> Self {
        let address = client.address();
        let host = address.host_str().unwrap_or_default();
        let host = match address.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        Self {
            registry: Some((host, client.clone())),
            ..Self::default()
        }
    }

    pub(crate) fn with_runner(self, runner: Option<Builder>) -> Self {
        Self { runner, ..self }
    }

    /// The engine that runs them here; none: nobody does, and no other was asked for.
    pub(crate) fn engine(&self, stop: &Stop) -> std::result::Result<Option<Engine>, EngineError> {
        let asked = match self.runner {
            Some(Builder::None) => return Ok(None),
            Some(Builder::Engine(name)) if EngineName::RUN.contains(&name) => Some(name),
            // What builds need not be what runs.
            Some(Builder::Engine(_)) | None => None,
        };
        match Engine::find(asked, stop) {
            Err(EngineError::None(_)) if asked.is_none() => Ok(None),
            found => found.map(Some),
        }
    }

    /// The host of the control plane's registry.
    pub(crate) fn host(&self) -> Option<&str> {
        self.registry.as_ref().map(|(host, _)| host.as_str())
    }

    /// Signs in to the control plane's registry; others know the engine by themselves. Blocks.
    pub(crate) fn login(&self, registry: Option<&str>) -> Result<Option<Arc<Login>>> {
        let (Some((host, client)), None) = (&self.registry, registry) else {
            return Ok(None);
        };
        // A build may have taken longer than a pipeline's token lives.
        let Some(password) = Handle::current().block_on(client.token_that_holds()) else {
            return Ok(None);
        };
        let credentials = Credentials::Password {
            user: USER.to_owned(),
            password,
        };
        Ok(Some(Arc::new(Login::new(host, &credentials)?)))
    }

    /// A Release's image in an engine, pulled where it is not there. Blocks.
    pub(crate) fn image(
        &self,
        engine: &Engine,
        image: &ContainerImage,
        cache: &Path,
        stop: &Stop,
        say: &dyn Fn(&str),
    ) -> Result<Image> {
        if let Ok(id) = fs::read_to_string(remembered(cache, image))
            && let Some(found) = engine.inspect(&id, stop)?
        {
            return Ok(found);
        }
        let name = image.seen_from(self.host().unwrap_or_default());
        let login = self.login(image.registry())?;
        Ok(engine.image_as(&name, login.as_deref(), stop, say)?)
    }
}

/// Remembers by which id an engine here has an image that it has pushed: podman knows it
/// by no other name. Without that it is pulled.
pub(crate) fn remember(cache: &Path, image: &ContainerImage, id: &str) {
    let _ = files::write_private(&remembered(cache, image), id);
}

fn remembered(cache: &Path, image: &ContainerImage) -> PathBuf {
    let name = format!("{}.id", image.digest.hex());
    cache.join("images").join(name)
}
