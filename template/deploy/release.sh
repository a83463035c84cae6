#!/usr/bin/env bash
# The steps of the pipeline. .github/workflows/ calls them, and so can you: they need what they name (docker, gh, uv,
# grype, jq) and the variables that the workflows give them.
#
#     deploy/release.sh login              signs in to the registry with REGISTRY_TOKEN
#     deploy/release.sh audit              uv.lock has no known vulnerability, but for those in waivers.txt
#     deploy/release.sh build              builds the image of this commit, pushes it, and says its digest
#     deploy/release.sh scan IMAGE         the image has none either; writes what is in it to sbom.cdx.json
#     deploy/release.sh verify IMAGE       this repository's delivery of this commit built it, on main
#     deploy/release.sh parity IMAGE       what ENVIRONMENT has, as JSON, but for values
#     deploy/release.sh compare IMAGE      the JSON in PRODUCTION has what the one in STAGING has
#     deploy/release.sh deploy IMAGE       puts it into service, tries it from outside, and takes it back if it fails
#     deploy/release.sh drill              restores the latest backup on the server of DRILL_SERVER, and tries it
#     deploy/release.sh alarm TITLE        opens an issue, or adds to the one that is open
#     deploy/release.sh update             opens a pull request with the template's newest release
#     deploy/release.sh protect [--dry-run] REVIEWER...   sets the rules of main and of the environments
set -euo pipefail

main() {
  cd "$(dirname "$0")/.."
  case ${1:-}:$# in
  login:1 | audit:1 | build:1 | drill:1 | update:1) ;;
  scan:2 | verify:2 | parity:2 | compare:2 | deploy:2 | alarm:2) ;;
  protect:*) ;;
  *)
    sed -n 's/^# *\(deploy\/release.sh .*\)/usage: \1/p' deploy/release.sh >&2
    exit 2
    ;;
  esac
  repository=${GITHUB_REPOSITORY:-$({ git remote get-url origin 2>/dev/null || echo; } | sed -E 's#^.*[:/]([^/]+/[^/]+)$#\1#; s#\.git$##')}
  [[ -n $repository ]] || fail "this repository has no remote called origin: GITHUB_REPOSITORY=owner/name says which it is"
  revision=${GITHUB_SHA:-$(git rev-parse HEAD)}
  work=$(mktemp -d)
  trap leave EXIT
  "$@"
}

login() { docker login ghcr.io --username "${GITHUB_ACTOR:?}" --password-stdin <<<"${REGISTRY_TOKEN:?}"; }

audit() {
  local known id options=()
  known=$(waived)
  for id in $known; do
    options+=(--ignore "$id")
  done
  uv audit --locked --preview-features audit-command "${options[@]}"
}

build() {
  local name version digest base
  name=ghcr.io/${repository,,}
  base=$(sed -n 's/^ARG PYTHON_IMAGE=//p' deploy/Dockerfile)
  [[ $base == *@* ]] || base=$base@$(docker buildx imagetools inspect "$base" | sed -n 's/^Digest: *//p')
  [[ $base =~ @sha256:[0-9a-f]{64}$ ]] || fail "the registry does not say which image $base is"
  version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
  docker buildx build --file deploy/Dockerfile --build-arg "REVISION=$revision" --build-arg "VERSION=$version" \
    --build-arg "PYTHON_IMAGE=$base" --tag "$name:$revision" --push --provenance=false --metadata-file "$work/metadata.json" .
  digest=$(jq --exit-status --raw-output '."containerimage.digest"' "$work/metadata.json")
  output name "$name"
  output digest "$digest"
  output image "$name@$digest"
}

scan() {
  local known id
  known=$(waived)
  {
    echo "ignore:"
    for id in $known; do
      echo "  - vulnerability: $id"
    done
  } >"$work/grype.yaml"
  "${GRYPE:-grype}" "registry:$1" --config "$work/grype.yaml" --by-cve --only-fixed --fail-on high \
    --output table --output cyclonedx-json=sbom.cdx.json
}

# The vulnerabilities that may be there today.
waived() {
  local id until why today
  today=$(date --utc +%F)
  while read -r id until why || [[ -n $id ]]; do
    [[ -n $id && $id != \#* ]] || continue
    [[ $id =~ ^[A-Za-z0-9-]+$ && $until =~ ^20[0-9]{2}-[0-9]{2}-[0-9]{2}$ && -n $why ]] ||
      fail "deploy/waivers.txt: $id: say until when (YYYY-MM-DD) and why"
    [[ $until > $today ]] || fail "deploy/waivers.txt: the waiver of $id ended on $until ($why)"
    echo "$id"
  done <deploy/waivers.txt
}

verify() {
  [[ $1 =~ @sha256:[0-9a-f]{64}$ ]] || fail "$1 has no digest, so it cannot be verified"
  gh attestation verify "oci://$1" --repo "$repository" \
    --signer-workflow "$repository/.github/workflows/deliver.yml" \
    --source-ref refs/heads/main --source-digest "$revision" --deny-self-hosted-runners
}

parity() {
  local found
  reach
  found=$(deploy/deploy.sh --on "$target" parity "$1" | jq --compact-output --exit-status objects)
  output parity "$found"
}

compare() {
  mkdir -m 755 "$work/parity"
  chmod 755 "$work"
  printf '%s\n' "${STAGING:?}" >"$work/parity/staging.json"
  printf '%s\n' "${PRODUCTION:?}" >"$work/parity/production.json"
  docker run --rm --volume "$work/parity:/parity:ro" "$1" \
    chassis parity /parity/staging.json /parity/production.json ||
    fail "staging and production differ, so what works in one says little of the other: nothing was deployed"
}

deploy() {
  : "${PUBLIC_URL:?}" # or it could not be tried afterwards
  reach
  deploy/deploy.sh --on "$target" "$1"
  if ! smoke "$1" --revision "$revision"; then
    say "$1 is red from outside: the release before comes back"
    deploy/deploy.sh --on "$target" back || fail "going back failed as well: $ENVIRONMENT needs you now"
    smoke "$1" || fail "the release before is red as well: $ENVIRONMENT needs you now"
    fail "the release before serves $ENVIRONMENT again"
  fi
}

# Try the service as its users meet it, with the program that is in the image.
smoke() {
  docker run --rm --env APP_SMOKE_EMAILS --env APP_SMOKE_PASSWORD "$1" chassis smoke "$PUBLIC_URL" "${@:2}"
}

# Make $target such that deploy.sh gets there. To a host with this key alone, and only if it is the one that is known;
# while this runs, it may pull the image.
reach() {
  target=${ENVIRONMENT:?}
  [[ -e deploy/compose.yaml ]] || return 0
  target=${DEPLOY_HOST:?is user@host of this environment}
  (
    umask 077
    printf '%s\n' "${DEPLOY_SSH_KEY:?}" >"$work/key"
    printf '%s\n' "${DEPLOY_KNOWN_HOSTS:?}" >"$work/known_hosts"
  )
  printf '#!/bin/sh\nexec %q -F none -i %q -o IdentitiesOnly=yes -o BatchMode=yes -o StrictHostKeyChecking=yes \\\n' \
    "$(command -v ssh)" "$work/key" >"$work/ssh"
  # shellcheck disable=SC2016  # that $@ is the wrapper's own
  printf '  -o UserKnownHostsFile=%q "$@"\n' "$work/known_hosts" >>"$work/ssh"
  chmod +x "$work/ssh"
  PATH=$work:$PATH
  ssh "$target" docker login ghcr.io --username "${GITHUB_ACTOR:?}" --password-stdin <<<"${REGISTRY_TOKEN:?}"
  signed_in=$target
}

leave() {
  [[ -z ${signed_in:-} ]] || ssh "$signed_in" docker logout ghcr.io </dev/null ||
    say "$signed_in stays signed in to the registry"
  rm -rf "$work"
}

# BACKUP_STORE has the variables of the object store, a line each, where no role of the cloud gives access.
drill() {
  local name value
  while IFS='=' read -r name value; do
    [[ -z $name ]] || export "$name=$value"
  done <<<"${BACKUP_STORE:-}"
  uv run --locked chassis drill --to "${DRILL_SERVER:?}"
}

alarm() {
  local number body
  body="It failed in ${GITHUB_SERVER_URL:-https://github.com}/$repository/actions/runs/${GITHUB_RUN_ID:-}"
  number=$(gh issue list --repo "$repository" --state open --search "in:title \"$1\"" --json number --jq '.[0].number // ""')
  if [[ -n $number ]]; then
    gh issue comment "$number" --repo "$repository" --body "$body"
  else
    gh issue create --repo "$repository" --title "$1" --body "$body"
  fi
}

# What could not be merged is in the pull request, which then is a draft, and this is red.
update() {
  local branch=template-update title="Bring the template's newest release" log=$work/update.log failed="" draft=()
  : "${GH_TOKEN:?}"
  # What is committed here is all that has changed.
  [[ -z $(git status --porcelain) ]] || fail "commit or put away first what you have changed"
  env --unset=GH_TOKEN make update ARGS=--defaults >"$log" 2>&1 || failed=yes
  cat "$log"
  git add --all
  if git diff --cached --quiet; then
    [[ -z $failed ]] || fail "the update failed"
    say "there is nothing new"
    return
  fi
  echo "What the template changed since the last update; its CHANGELOG.md says why." >"$work/body.md"
  if [[ -n $failed ]]; then
    title="$title: it needs you"
    draft=(--draft)
    printf '\n%s\n\n' "It did not go through by itself. Check this branch out, and put right what it says:" >>"$work/body.md"
    tail -n 50 "$log" | sed 's/^/    /' >>"$work/body.md"
  fi
  git -c user.name=github-actions -c user.email=github-actions@users.noreply.github.com commit --quiet --message "$title"
  git -c credential.helper= -c "credential.helper=!gh auth git-credential" push --force origin "HEAD:refs/heads/$branch"
  if [[ -n $(gh pr list --repo "$repository" --head "$branch" --state open --json number --jq '.[].number') ]]; then
    gh pr edit "$branch" --repo "$repository" --title "$title" --body-file "$work/body.md"
    [[ -z $failed ]] || gh pr ready "$branch" --repo "$repository" --undo
  else
    gh pr create --repo "$repository" --base main --head "$branch" --title "$title" --body-file "$work/body.md" "${draft[@]}"
  fi
  [[ -z $failed ]] || fail "the update needs a person: see the pull request"
}

# Who may change main and put what into service where. Again and again: it replaces what it set before.
protect() {
  local dry="" name reviewer id ruleset reviewers="[]"
  if [[ ${1:-} == --dry-run ]]; then
    dry=yes
    shift
  fi
  [[ $# -gt 0 ]] || fail "say who approves what goes to production: people, and teams as in org/team"
  for reviewer in "$@"; do
    if [[ $reviewer == */* ]]; then
      id=$(gh api "orgs/${reviewer%/*}/teams/${reviewer#*/}" --jq .id)
      reviewers=$(jq ". + [{type: \"Team\", id: $id}]" <<<"$reviewers")
    else
      id=$(gh api "users/$reviewer" --jq .id)
      reviewers=$(jq ". + [{type: \"User\", id: $id}]" <<<"$reviewers")
    fi
  done
  ruleset=$(gh api "repos/$repository/rulesets" --jq '.[] | select(.name == "main") | .id')
  send "${ruleset:+PUT}" "repos/$repository/rulesets${ruleset:+/$ruleset}" <<'END'
{
  "name": "main", "target": "branch", "enforcement": "active",
  "conditions": {"ref_name": {"include": ["~DEFAULT_BRANCH"], "exclude": []}},
  "rules": [
    {"type": "deletion"},
    {"type": "non_fast_forward"},
    {"type": "pull_request", "parameters": {
      "required_approving_review_count": 1, "require_code_owner_review": true, "dismiss_stale_reviews_on_push": true,
      "require_last_push_approval": true, "required_review_thread_resolution": true}},
    {"type": "required_status_checks", "parameters": {
      "strict_required_status_checks_policy": true, "required_status_checks": [
        {"context": "lint, types, contracts, migrations"}, {"context": "tests"}, {"context": "known vulnerabilities"}]}}
  ]
}
END
  for name in staging production drill template-update; do
    jq --null-input --argjson reviewers "$([[ $name == production ]] && echo "$reviewers" || echo "[]")" '{
      reviewers: $reviewers, deployment_branch_policy: {protected_branches: false, custom_branch_policies: true}
    }' | send PUT "repos/$repository/environments/$name"
    [[ -n $(gh api "repos/$repository/environments/$name/deployment-branch-policies" \
      --jq '.branch_policies[] | select(.name == "main") | .name') ]] ||
      send POST "repos/$repository/environments/$name/deployment-branch-policies" <<<'{"name": "main"}'
  done
}

# Send the JSON on stdin, or show it.
send() {
  local method=${1:-POST}
  if [[ -n $dry ]]; then
    echo "$method $2"
    jq .
  else
    gh api --method "$method" "$2" --input - --silent
  fi
}

output() {
  printf '%s\n' "$2"
  printf '%s=%s\n' "$1" "$2" >>"${GITHUB_OUTPUT:-/dev/null}"
}

say() { echo "release: $*"; }

fail() {
  say "$*" >&2
  exit 1
}

main "$@"
