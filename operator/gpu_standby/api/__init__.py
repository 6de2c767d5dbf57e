"""The contract: names, enums and the two resources as typed models. `crds/` is generated from here."""
