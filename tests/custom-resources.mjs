// Holds the custom resources of a rendered overlay against the types of their owners, and writes the other objects to a
// second file, for a checker that knows Kubernetes' own only. Silent when all is well. Called by tests/deploy-check,
// with its npm packages beside it.
import { ScaledObject } from "@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject";
import { PodMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PodMonitor";
import { PrometheusRule } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PrometheusRule";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import ts from "typescript";
import { parseAllDocuments, stringify } from "yaml";

const CUSTOM = { ScaledObject, PodMonitor, PrometheusRule };
const PACKAGES = {
  ScaledObject: "@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject",
  PodMonitor: "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PodMonitor",
  PrometheusRule: "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PrometheusRule",
};

const [rendered, builtIn] = process.argv.slice(2);
const objects = parseAllDocuments(readFileSync(rendered, "utf8")).map((document) => document.toJS());
const isCustom = (object) => object.apiVersion.split("/")[0].includes(".") && !object.apiVersion.includes("k8s.io/");
const custom = objects.filter(isCustom);
const problems = [];

const missing = Object.keys(CUSTOM).filter((kind) => !custom.some((object) => object.kind === kind));
if (missing.length > 0) problems.push(`not rendered: ${missing.join(", ")}`);

for (const object of custom) {
  const type = CUSTOM[object.kind];
  if (type?.apiVersion !== object.apiVersion) {
    problems.push(`nobody here knows ${object.apiVersion} ${object.kind}`);
    continue;
  }
  try {
    new type(object).validate();
  } catch (error) {
    problems.push(`${object.kind} ${object.metadata.name}: ${error.message}`);
  }
}

// The schemas let unknown fields pass. As a literal of its type, an object may have none.
const literals = custom.map((object, index) =>
  `import type { I${object.kind} as Type${index} } from "${PACKAGES[object.kind]}";\n` +
  `export const object${index}: Type${index} = ${JSON.stringify(object, null, 1)};\n`);
const source = join(import.meta.dirname, "custom-resources.ts");
writeFileSync(source, literals.join(""));
const program = ts.createProgram([source], {
  module: ts.ModuleKind.NodeNext, moduleResolution: ts.ModuleResolutionKind.NodeNext, noEmit: true, skipLibCheck: true,
  strict: true, target: ts.ScriptTarget.ES2022, types: [],
});
for (const diagnostic of ts.getPreEmitDiagnostics(program)) {
  const at = diagnostic.file?.getLineAndCharacterOfPosition(diagnostic.start);
  problems.push(`custom-resources.ts:${at?.line + 1}: ${ts.flattenDiagnosticMessageText(diagnostic.messageText, "\n")}`);
}

if (problems.length > 0) {
  console.error(problems.join("\n"));
  process.exit(1);
}
writeFileSync(builtIn, objects.filter((object) => !isCustom(object)).map((object) => `---\n${stringify(object)}`).join(""));
