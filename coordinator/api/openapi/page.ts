import { createHash } from 'node:crypto'
import { type Content, NOUNS, type OpenApiDocument, type Operation, type Parameter } from './document.ts'
import type { Schema } from './schema.ts'

/**
 * The document as a page to read: one HTML file without scripts and without anything from elsewhere. What can be reached
 * with a mouse is a link, so keyboard and screen reader reach it too; headings and captions say what follows them.
 */
export function describingPage(document: OpenApiDocument): string {
  const sections = NOUNS.map(({ name, about }) => sectionOf(document, name, about)).join('')
  const schemas = Object.entries(document.components.schemas).map(([name, schema]) => schemaOf(name, schema))
  const { title, version, description } = document.info
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escaped(title)} API</title>
<style>${STYLE}</style>
</head>
<body>
<a class="skip" href="#main">To the routes</a>
<header><h1>${escaped(title)} API</h1><p>Version ${escaped(version)}. ${escaped(description)}</p>
<p>For programs: <a href="/api/openapi.json">openapi.json</a>. The examples take the address from <code>$HOLDFAST_URL</code> and the key from <code>$HOLDFAST_KEY</code>.</p></header>
<nav aria-label="Routes">${NOUNS.map(({ name }) => contentsOf(document, name)).join('')}<h2><a href="#schemas">Schemas</a></h2></nav>
<main id="main">${sections}<section aria-labelledby="schemas"><h2 id="schemas">Schemas</h2>${schemas.join('')}</section></main>
</body>
</html>
`
}

/** Only the page's own style may be used, by its hash, and nothing may be loaded, sent or framed. */
export function contentPolicy(): string {
  const hash = createHash('sha256').update(STYLE).digest('base64')
  return `default-src 'none'; style-src 'sha256-${hash}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'`
}

type Described = { method: string; path: string; operation: Operation }

function routesOf({ paths }: OpenApiDocument, noun: string): Described[] {
  return Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods)
      .filter(([, operation]) => operation.tags.includes(noun))
      .map(([method, operation]) => ({ method: method.toUpperCase(), path, operation })),
  )
}

function contentsOf(document: OpenApiDocument, noun: string): string {
  const links = routesOf(document, noun).map(
    ({ method, path, operation }) =>
      `<li><a href="#${operation.operationId}"><span class="method">${method}</span> ${escaped(path)}</a></li>`,
  )
  return `<h2><a href="#${anchor(noun)}">${escaped(noun)}</a></h2><ul>${links.join('')}</ul>`
}

function sectionOf(document: OpenApiDocument, noun: string, about: string): string {
  const routes = routesOf(document, noun).map(routeOf).join('')
  return `<section aria-labelledby="${anchor(noun)}"><h2 id="${anchor(noun)}">${escaped(noun)}</h2><p>${prose(about)}</p>${routes}</section>`
}

function routeOf({ method, path, operation }: Described): string {
  const { operationId, summary, description, parameters, requestBody, responses, security } = operation
  const told = [
    `<h3 id="${operationId}"><span class="method">${method}</span> <code>${escaped(path)}</code></h3>`,
    `<p><strong>${prose(summary)}.</strong> ${prose(description ?? '')}${security === undefined ? '' : ' No key is needed.'}</p>`,
    parametersOf(parameters),
    requestBody === undefined ? '' : bodyOf(requestBody.content),
    answersOf(responses),
    `<h4>Example</h4><pre tabindex="0" role="region" aria-label="Example of ${method} ${escaped(path)}"><code>${escaped(curlOf(method, path, operation))}</code></pre>`,
  ]
  return `<article aria-labelledby="${operationId}">${told.join('')}</article>`
}

function parametersOf(parameters: Parameter[]): string {
  if (parameters.length === 0) return ''
  const rows = parameters.map(({ name, in: place, required, schema, description = '' }) => [
    `<code>${escaped(name)}</code>`,
    place + (required ? ', required' : ''),
    typeOf(schema),
    prose(description),
  ])
  return table('Parameters', ['Name', 'Where', 'Type', 'What it is'], rows)
}

function bodyOf(content: Content): string {
  const parts = Object.entries(content).map(([type, { schema = {} }], index, all) => {
    const same = index > 0 && schema === all[0]?.[1].schema
    return `<p><code>${escaped(type)}</code>: ${same ? 'the same' : typeOf(schema, false)}</p>${same ? '' : membersOf(schema, 'Members of the body')}`
  })
  return `<h4>Body</h4>${parts.join('')}`
}

function answersOf(responses: Operation['responses']): string {
  const rows = Object.entries(responses).map(([status, { description, content }]) => [
    status === 'default' ? 'otherwise' : status,
    prose(description),
    Object.entries(content)
      .map(([type, { schema = {} }]) => `${typeOf(schema)} as <code>${escaped(type)}</code>`)
      .join(', or '),
  ])
  return table('Answers', ['Status', 'What it is', 'Type'], rows)
}

function schemaOf(name: string, schema: Schema): string {
  const about = typeof schema.description === 'string' ? `<p>${prose(schema.description)}</p>` : ''
  const members = membersOf(schema, `Members of ${name}`)
  const is = members === '' ? `<p>${typeOf(schema)}</p>` : ''
  return `<article aria-labelledby="schema-${name}"><h3 id="schema-${name}">${escaped(name)}</h3>${about}${is}${members}</article>`
}

function membersOf(schema: Schema, caption: string): string {
  const members = Object.entries((schema.properties ?? {}) as Record<string, Schema>)
  if (members.length === 0) return ''
  const required = (schema.required ?? []) as string[]
  const rows = members.map(([name, member]) => [
    `<code>${escaped(name)}</code>`,
    required.includes(name) ? 'always' : 'may be absent',
    typeOf(member),
    prose(typeof member.description === 'string' ? member.description : ''),
  ])
  return table(caption, ['Name', 'Presence', 'Type', 'What it is'], rows)
}

/** A schema in a few words. `nested`: the members of an object are named too. */
function typeOf(schema: Schema, nested = true): string {
  const { $ref, anyOf, enum: values, const: only, type, items, properties } = schema
  if (typeof $ref === 'string') {
    const name = $ref.slice($ref.lastIndexOf('/') + 1)
    return `<a href="#schema-${name}">${escaped(name)}</a>`
  }
  if (Array.isArray(anyOf)) return anyOf.map((one) => typeOf(one as Schema, nested)).join(' or ')
  if (Array.isArray(values)) return values.map((value) => `<code>${escaped(String(value))}</code>`).join(', ')
  if (only !== undefined) return `<code>${escaped(JSON.stringify(only))}</code>`
  if (type === 'array') return `list of ${typeOf((items ?? {}) as Schema, nested)}${bounds(schema)}`
  if (properties !== undefined && nested) {
    const members = Object.entries(properties as Record<string, Schema>).map(([name, member]) => `${escaped(name)}: ${typeOf(member)}`)
    return `object { ${members.join('; ')} }`
  }
  return `${typeof type === 'string' ? type : 'anything'}${typeof schema.format === 'string' ? ` (${schema.format})` : ''}${bounds(schema)}`
}

function bounds(schema: Schema): string {
  const { minimum, maximum, minLength, maxLength, maxItems, default: otherwise } = schema
  const said: string[] = []
  if (minimum !== undefined && maximum !== undefined) said.push(`${minimum} to ${maximum}`)
  else if (minimum !== undefined) said.push(`at least ${minimum}`)
  if (maxLength !== undefined) said.push(`${minLength ?? 0} to ${maxLength} characters`)
  if (maxItems !== undefined) said.push(`at most ${maxItems}`)
  if (otherwise !== undefined) said.push(`${JSON.stringify(otherwise)} unless given`)
  return said.length === 0 ? '' : `, ${said.join(', ')}`
}

function table(caption: string, heads: string[], rows: string[][]): string {
  const head = heads.map((name) => `<th scope="col">${name}</th>`).join('')
  const lines = rows.map(
    ([first = '', ...rest]) => `<tr><th scope="row">${first}</th>${rest.map((cell) => `<td>${cell}</td>`).join('')}</tr>`,
  )
  return `<table><caption>${escaped(caption)}</caption><thead><tr>${head}</tr></thead><tbody>${lines.join('')}</tbody></table>`
}

function curlOf(method: string, path: string, operation: Operation): string {
  // curl reads braces as lists, and a shell puts in what a variable holds.
  const address = path.replaceAll(/\{(\w+)\}/g, (_, name: string) => `$${name.toUpperCase()}`)
  const streams = Object.values(operation.responses).some(
    ({ content }) => 'text/event-stream' in content && Object.keys(content).length === 1,
  )
  const lines = [`curl ${streams ? '-N ' : ''}${method === 'GET' ? '' : `-X ${method} `}"$HOLDFAST_URL${address}"`]
  if (operation.security === undefined) lines.push('-H "Authorization: Bearer $HOLDFAST_KEY"')
  const [type, { example } = {}] = Object.entries(operation.requestBody?.content ?? {})[0] ?? []
  if (type === 'multipart/form-data') lines.push('-F purpose=batch', '-F file=@rows.jsonl')
  else if (type !== undefined)
    lines.push(`-H 'content-type: ${type}'`, `-d '${JSON.stringify(example ?? {}, null, 2).replaceAll("'", String.raw`'\''`)}'`)
  return lines.join(' \\\n  ')
}

function anchor(noun: string): string {
  return `noun-${noun.toLowerCase().replaceAll(/[^a-z]+/g, '-')}`
}

/** Text in which backticks mean code. */
function prose(text: string): string {
  return escaped(text).replaceAll(/`([^`]+)`/g, '<code>$1</code>')
}

function escaped(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;')
}

const STYLE = `
:root { color-scheme: light dark; --ground: #fff; --text: #1b1f24; --quiet: #4b5563; --line: #c9ced6; --code: #f2f4f7; --link: #0b57d0 }
@media (prefers-color-scheme: dark) { :root { --ground: #14171b; --text: #e6e8eb; --quiet: #aeb6c1; --line: #3a4048; --code: #1f242a; --link: #8ab4f8 } }
* { box-sizing: border-box }
body { margin: 0; background: var(--ground); color: var(--text); font: 1rem/1.5 system-ui, sans-serif }
header, nav, main { max-width: 72rem; margin: 0 auto; padding: 0.5rem 1rem }
a { color: var(--link) }
a:focus-visible, pre:focus-visible { outline: 3px solid var(--link); outline-offset: 2px }
.skip { position: absolute; left: -100rem }
.skip:focus { left: 1rem; top: 1rem; padding: 0.5rem; background: var(--ground) }
nav ul { columns: 22rem; list-style: none; padding: 0 }
nav h2 { font-size: 1rem; margin: 1rem 0 0 }
article { border-top: 1px solid var(--line); margin: 1.5rem 0; padding-top: 0.5rem }
h3, td, th, li { overflow-wrap: anywhere }
.method { font: 600 0.85em ui-monospace, monospace; color: var(--quiet) }
code, pre { font-family: ui-monospace, monospace; font-size: 0.9em; background: var(--code) }
pre { padding: 0.75rem; overflow: auto; border: 1px solid var(--line) }
table { width: 100%; border-collapse: collapse; margin: 0.75rem 0 }
caption { text-align: left; font-weight: 600; padding: 0.25rem 0 }
th, td { text-align: left; vertical-align: top; padding: 0.3rem 0.5rem; border: 1px solid var(--line); font-weight: 400 }
thead th { font-weight: 600; color: var(--quiet) }
`
