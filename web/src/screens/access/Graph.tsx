export default function Graph(_: { tenant: string }) {
  return null;
}
