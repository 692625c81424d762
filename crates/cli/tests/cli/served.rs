//! With a control plane.
