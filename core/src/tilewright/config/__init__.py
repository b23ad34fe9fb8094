"""Configuration: the schema, reading it, and looking its names up among the plugins."""

from tilewright.config.loading import ConfigSource, load_config
from tilewright.config.schema import Config
from tilewright.config.structure import ConfigError

__all__ = ["Config", "ConfigError", "ConfigSource", "load_config"]
