"""The import contract between the modules of a service, for `lint-imports`.

import-linter can say that modules do not know each other at all, or list who may know whom. What holds here is neither:
any module may import another one's public face, which is the package itself, and none may import what lies inside.
"""

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output

Violation = tuple[str, str, int]


class PublicFace(Contract):
    """Whatever lies inside a folder of `package` is imported only by what lies in the same folder."""

    type_name = "public_face"

    package = fields.StringField()

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        package = str(self.package)
        violations: list[Violation] = []
        for folder in sorted(graph.find_children(package)):
            inside = graph.find_descendants(folder)
            for imported in sorted(inside):
                for importer in sorted(graph.find_modules_that_directly_import(imported) - inside - {folder}):
                    details = graph.get_import_details(importer=importer, imported=imported)
                    violations += [(importer, imported, detail["line_number"]) for detail in details]
        return ContractCheck(kept=not violations, metadata={"violations": violations})

    def render_broken_contract(self, check: ContractCheck) -> None:
        violations: list[Violation] = check.metadata["violations"]
        for importer, imported, line in violations:
            face = ".".join(imported.split(".")[:2])
            output.print_error(
                f"{importer} imports {imported} (line {line}): import it from {face} instead.", bold=False
            )
