import { ActionIcon, Box, Button, Group, NavLink, Select, Stack, Text, TextInput, Tooltip } from "@mantine/core";
import { IconArrowBackUp, IconFilePlus, IconTrash } from "@tabler/icons-react";
import { useState } from "react";
import { FormModal } from "../../components/form";
import { type DraftFile, kindOf } from "./draft";

const note = (f: DraftFile, errors: number) =>
  [f.mark, errors > 0 ? `${errors} ${errors === 1 ? "error" : "errors"}` : undefined].filter(Boolean).join(", ");

/** The files of the draft: a list, or one field where the screen is narrow. */
export function Files({
  files,
  selected,
  errors,
  select,
  add,
  remove,
  revert,
}: {
  files: DraftFile[];
  selected: string;
  errors: (path: string) => number;
  select: (path: string) => void;
  add: (path: string) => void;
  remove: (path: string) => void;
  revert: (path: string) => void;
}) {
  const [adding, setAdding] = useState(false);
  const file = files.find((f) => f.path === selected);
  return (
    <Stack gap="xs">
      <Group gap={4} justify="space-between" wrap="nowrap">
        <Button
          size="compact-sm"
          variant="default"
          leftSection={<IconFilePlus size={14} />}
          onClick={() => setAdding(true)}
        >
          Add a file
        </Button>
        <Group gap={4} wrap="nowrap">
          {file?.mark && (
            <Tooltip label={file.mark === "new" ? "Remove this new file" : "Revert this file"}>
              <ActionIcon variant="default" aria-label={`Revert ${file.path}`} onClick={() => revert(file.path)}>
                <IconArrowBackUp size={16} />
              </ActionIcon>
            </Tooltip>
          )}
          {file && file.mark !== "removed" && file.mark !== "new" && (
            <Tooltip label="Remove this file">
              <ActionIcon variant="default" aria-label={`Remove ${file.path}`} onClick={() => remove(file.path)}>
                <IconTrash size={16} />
              </ActionIcon>
            </Tooltip>
          )}
        </Group>
      </Group>
      <Box hiddenFrom="md">
        <Select
          label="File"
          searchable
          allowDeselect={false}
          value={selected}
          onChange={(v) => v && select(v)}
          data={files.map((f) => {
            const n = note(f, errors(f.path));
            return { value: f.path, label: n ? `${f.path} (${n})` : f.path };
          })}
        />
      </Box>
      <Box visibleFrom="md" component="nav" aria-label="Files" style={{ maxHeight: "62vh", overflow: "auto" }}>
        {files.map((f) => {
          const n = note(f, errors(f.path));
          return (
            <NavLink
              key={f.path}
              component="button"
              type="button"
              active={f.path === selected}
              aria-current={f.path === selected ? "true" : undefined}
              onClick={() => select(f.path)}
              py={3}
              px="xs"
              styles={{ label: { overflowWrap: "anywhere" } }}
              label={
                <Text span size="xs" td={f.mark === "removed" ? "line-through" : undefined}>
                  {f.path}
                </Text>
              }
              description={
                n ? (
                  <Text span size="xs" fw={600} c="var(--mantine-color-text)">
                    {n}
                  </Text>
                ) : undefined
              }
            />
          );
        })}
      </Box>
      {adding && <AddFile files={files} add={add} onClose={() => setAdding(false)} />}
    </Stack>
  );
}

function AddFile({ files, add, onClose }: { files: DraftFile[]; add: (path: string) => void; onClose: () => void }) {
  const [path, setPath] = useState("iam/claims/");
  const name = path.trim();
  const error = files.some((f) => f.path === name && f.mark !== "removed")
    ? "There is such a file already"
    : !kindOf(name) || /(^|\/)(\.\.?)?(\/|$)/.test(name)
      ? "A policy has *.rego, cases/*.yaml, schemas/*.json and data.json"
      : undefined;
  return (
    <FormModal title="Add a file" submitLabel="Add" disabled={!!error} onClose={onClose} submit={async () => add(name)}>
      {() => (
        <TextInput
          label="Path"
          data-autofocus
          value={path}
          onChange={(e) => setPath(e.currentTarget.value)}
          error={path === "iam/claims/" ? undefined : error}
          description="For example iam/claims/office_hours.rego"
        />
      )}
    </FormModal>
  );
}
